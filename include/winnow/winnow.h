/* winnow's C interface: an engine, sessions that read prompts under a policy, what a policy costs in quality.
 *
 * Errors. A function that can fail returns a winnow_status: WINNOW_OK, or what went wrong, and
 * winnow_error_message() then says it in words. Results are written on WINNOW_OK only.
 *
 * Structs begin with their size, so that a program and a library of different versions understand each other;
 * WINNOW_INIT(variable) sets it. In options, zero or null is the default of every field.
 *
 * Memory. What a function returns through a pointer to a pointer is the caller's, and given back with
 * winnow_free() (arrays, texts) or the ..._close() or ..._free() of its kind. What is called "borrowed" stays
 * the library's and is valid until the next call on the same handle. Handles keep what they depend on alive:
 * the order in which they are freed does not matter; null is ignored.
 *
 * Text is UTF-8. A text that comes with its number of bytes may hold zeros, others end with one.
 *
 * Threads. Every function may be called from any thread. An engine does one thing at a time: calls on it and
 * on its sessions, closing them included, wait for each other. Calls on different engines run side by side,
 * but engines on the same GPU do one thing at a time all together, opening included. A handle must not be
 * freed during a call on it. Callbacks run on the calling thread, and may not call functions of the same
 * engine, its sessions or, on a GPU, other engines there (WINNOW_BAD_ARGUMENT); other handles may be freed.
 *
 * Stability. Functions, constants and fields are added, never changed or removed, as long as the library's
 * soname stays: libwinnow.so.WINNOW_ABI_VERSION.
 */
#ifndef WINNOW_WINNOW_H
#define WINNOW_WINNOW_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WINNOW_ABI_VERSION 1
#define WINNOW_API __attribute__((visibility("default")))

/* ---- versions and errors ------------------------------------------------------------------------------ */

typedef int32_t winnow_status;
enum {
  WINNOW_OK = 0,
  WINNOW_IO = 1,            /* a file cannot be opened, mapped or written */
  WINNOW_BAD_FORMAT = 2,    /* the bytes of a file, or a policy's JSON, contradict their format */
  WINNOW_UNSUPPORTED = 3,   /* well-formed, but nothing this library can run */
  WINNOW_BAD_ARGUMENT = 4,  /* makes no sense, or not for this model */
  WINNOW_OUT_OF_MEMORY = 5, /* more than the machine has */
  WINNOW_CANCELLED = 6,     /* a callback said so */
  WINNOW_INTERNAL = 7       /* a bug in winnow */
};

WINNOW_API const char* winnow_version(void);                     /* "0.1.0" */
WINNOW_API int32_t winnow_abi_version(void);                     /* WINNOW_ABI_VERSION of the library */
WINNOW_API const char* winnow_status_name(winnow_status status); /* "bad argument" */
/* Of the last call that failed on this thread; "" before one has. Valid until the next failure on the thread.
 */
WINNOW_API const char* winnow_error_message(void);
WINNOW_API void winnow_free(void* memory);

/* Makes a struct of this header empty but for its size: all options default. */
#define WINNOW_INIT(variable) \
  ((void)memset(&(variable), 0, sizeof(variable)), (void)((variable).size = sizeof(variable)))

/* Told the share done, 0..1. Nonzero cancels: the call then returns WINNOW_CANCELLED. */
typedef int (*winnow_progress)(double share, void* user_data);

/* ---- engine: an opened model -------------------------------------------------------------------------- */

typedef struct winnow_engine winnow_engine;

typedef struct winnow_engine_options {
  size_t size;
  const char* model;          /* a GGUF file or a Hugging Face folder, or */
  const char* random_weights; /* the name of a shape to fill with them ("qwen2-0.5b"): no tokenizer then */
  uint64_t seed;              /* of random weights */
  const char* device;         /* "cpu" (default), "cuda", "cuda:N", "reference" */
  const char* precision;      /* "bf16" (default), "f32", "int8" */
  int32_t threads;            /* 0: all the process may use */
  winnow_progress progress;   /* of loading, which cannot be cancelled: what it returns is ignored */
  void* user_data;            /* progress's */
  const char* kv;             /* what caches keep: "same" (default: as computed), "q8" (8 bits) */
} winnow_engine_options;

WINNOW_API winnow_status winnow_engine_open(const winnow_engine_options* options, winnow_engine** engine);
WINNOW_API void winnow_engine_close(winnow_engine* engine);

typedef struct winnow_model_info {
  size_t size;
  const char* name; /* borrowed, as long as the engine */
  int64_t layers, heads, kv_heads, model_dim, vocab, context;
  int32_t has_tokenizer, has_chat_template;
} winnow_model_info;

WINNOW_API winnow_status winnow_engine_info(const winnow_engine* engine, winnow_model_info* info);

/* ---- text and tokens ---------------------------------------------------------------------------------- */

/* With `parse_special`, control tokens written in the text ("<|im_end|>") become their ids. */
WINNOW_API winnow_status winnow_tokenize(winnow_engine* engine, const char* text, size_t bytes,
                                         int32_t parse_special, int32_t** tokens, size_t* count);
/* `messages` messages in the model's chat template, and the beginning of the answer to them. Roles are
 * "system", "user", "assistant". */
WINNOW_API winnow_status winnow_tokenize_chat(winnow_engine* engine, const char* const* roles,
                                              const char* const* contents, size_t messages, int32_t** tokens,
                                              size_t* count);
/* Control tokens have no text. `*text` ends with a zero that `*bytes` does not count; `bytes` may be null. */
WINNOW_API winnow_status winnow_detokenize(winnow_engine* engine, const int32_t* tokens, size_t count,
                                           char** text, size_t* bytes);

/* ---- policies: what to leave out ---------------------------------------------------------------------- */

typedef struct winnow_policy winnow_policy;

/* As on winnow's command line ("dense", "keep08", "keep08:recency+pooled=0.9", "auto", a file), or the JSON
 * of a policy file. Checked against the engine's model. */
WINNOW_API winnow_status winnow_policy_parse(const winnow_engine* engine, const char* text,
                                             winnow_policy** policy);
WINNOW_API void winnow_policy_free(winnow_policy* policy);
WINNOW_API winnow_status winnow_policy_json(const winnow_policy* policy,
                                            char** json); /* every key, as in a file */

/* ---- sessions: one conversation's caches -------------------------------------------------------------- */

typedef struct winnow_session winnow_session;

WINNOW_API winnow_status winnow_session_open(winnow_engine* engine, winnow_session** session);
WINNOW_API void winnow_session_close(winnow_session* session);

typedef struct winnow_prefill_options {
  size_t size;
  int64_t reserve_tokens;   /* room in the caches for this many tokens after the prompt; default 128 */
  winnow_progress progress; /* between layers; cancelling leaves the session as before the call */
  void* user_data;          /* progress's */
} winnow_prefill_options;

/* Reads tokens, on top of what the session has read. `policy` may be null (dense), and so may `options`. */
WINNOW_API winnow_status winnow_session_prefill(winnow_session* session, const int32_t* tokens, size_t count,
                                                const winnow_policy* policy,
                                                const winnow_prefill_options* options);
/* Reads one token, which is never left out. */
WINNOW_API winnow_status winnow_session_decode(winnow_session* session, int32_t token);
/* What follows the last token: [vocab] float32, borrowed. */
WINNOW_API winnow_status winnow_session_logits(winnow_session* session, const float** logits, size_t* count);

typedef struct winnow_stage {
  size_t size;
  int64_t layer;         /* the stage comes before it */
  int64_t tokens_before; /* of this prompt */
  int64_t tokens_kept;
  double ms;           /* scoring and choosing */
  const int32_t* kept; /* [tokens_kept] places in the prompt, ascending; borrowed */
} winnow_stage;

/* Stages of the last prefill's policy; none when it dropped no tokens. */
WINNOW_API winnow_status winnow_session_stages(winnow_session* session, size_t* count);
WINNOW_API winnow_status winnow_session_stage(winnow_session* session, size_t index, winnow_stage* stage);

typedef struct winnow_stats {
  size_t size;
  int64_t tokens;        /* read and decoded so far, those left out included */
  int64_t room;          /* tokens that still fit the context */
  int64_t prompt_tokens; /* of the last prefill */
  int64_t kept_tokens;   /* after its last stage */
  double prefill_ms, decode_ms;
  double avgtok;         /* tokens that entered a layer / prompt tokens, mean over the layers */
  double density;        /* share of attention computed among the tokens that were left */
  double attention_work; /* the same, against the whole prompt's */
  double flops;          /* of the last prefill */
  int64_t kv_bytes;      /* rows in the caches */
  int64_t memory_bytes;  /* what the session holds */
} winnow_stats;

WINNOW_API winnow_status winnow_session_stats(winnow_session* session, winnow_stats* stats);

/* ---- answers ------------------------------------------------------------------------------------------ */

enum { WINNOW_FINISH_STOP = 0, WINNOW_FINISH_LENGTH = 1, WINNOW_FINISH_CALLBACK = 2 };

/* Told every token as it is chosen, with the text that is certain by then (no zero at its end; often empty).
 * Nonzero ends the answer. */
typedef int (*winnow_on_token)(int32_t token, const char* text, size_t bytes, void* user_data);

typedef struct winnow_generate_options {
  size_t size;
  int64_t max_new_tokens; /* default 128 */
  double temperature;     /* 0: the likeliest token */
  int64_t top_k;          /* 0: all */
  double top_p;           /* 0: all */
  uint64_t seed;
  const char* const* stop; /* [stop_count] texts that end the answer, beside the model's own stop tokens */
  size_t stop_count;
  int32_t new_text; /* nonzero: the answer begins a text (a chat's), else it goes on with the prompt's */
  winnow_on_token on_token;
  void* user_data; /* on_token's */
} winnow_generate_options;

typedef struct winnow_answer {
  size_t size;
  int32_t* tokens; /* [count]; the caller's: winnow_free() */
  size_t count;
  char* text; /* the caller's; null for a model without a tokenizer */
  size_t text_bytes;
  int32_t finish;   /* WINNOW_FINISH_... */
  double decode_ms; /* the tokens after the first */
} winnow_answer;

/* Goes on after what the session has read; `options` may be null. All tokens of the answer are read then. */
WINNOW_API winnow_status winnow_generate(winnow_session* session, const winnow_generate_options* options,
                                         winnow_answer* answer);

/* ---- what policies cost ------------------------------------------------------------------------------- */

typedef struct winnow_evaluate_options {
  size_t size;
  int64_t length;  /* tokens of a window of the text, the 256 that are predicted included; default 4096, at
                      most the context */
  int64_t windows; /* default 12 */
  winnow_progress progress; /* between layers and tokens: told a share several times */
  void* user_data;          /* progress's */
} winnow_evaluate_options;

/* Beside dense, on the 256 tokens that follow a context read under the policy; means over the windows, and
 * bounds of their 95% bootstrap intervals: NaN of fewer than 5 windows, too few for an interval. In nats. */
typedef struct winnow_quality {
  size_t size;
  int64_t windows;
  double kl, kl_low, kl_high;    /* KL(dense || policy) of the next token */
  double dce, dce_low, dce_high; /* rise of the cross-entropy */
  double top1;                   /* share of tokens whose likeliest is dense's */
  double ppl;                    /* perplexity of the text */
  double avgtok, density;        /* as in winnow_stats */
  double kv_share;               /* of the dense caches' rows */
  double speedup;                /* dense time to read the context / the policy's; 0: not timed */
} winnow_quality;

/* Measures `count` policies on the same windows of `text`, into results[count], each with its size set. Where
 * `report` is not null, it gets everything as JSON (docs/json.md, winnow.evaluation). `options` may be null.
 */
WINNOW_API winnow_status winnow_evaluate(winnow_engine* engine, const winnow_policy* const* policies,
                                         size_t count, const char* text, size_t bytes,
                                         const winnow_evaluate_options* options, winnow_quality* results,
                                         char** report);

#ifdef __cplusplus
}
#endif

#endif
