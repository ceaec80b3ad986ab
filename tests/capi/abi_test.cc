// The layout of ABI 1, checked by the compiler: programs built with an older header find every field where it
// was. A new field gets a line of its own; a line that no longer holds means a new WINNOW_ABI_VERSION.
#include <winnow/winnow.h>

#include <cstddef>

static_assert(WINNOW_ABI_VERSION == 1);
static_assert(sizeof(void*) == 8, "the offsets are those of 64-bit machines");

static_assert(offsetof(winnow_engine_options, size) == 0);
static_assert(offsetof(winnow_engine_options, model) == 8);
static_assert(offsetof(winnow_engine_options, random_weights) == 16);
static_assert(offsetof(winnow_engine_options, seed) == 24);
static_assert(offsetof(winnow_engine_options, device) == 32);
static_assert(offsetof(winnow_engine_options, precision) == 40);
static_assert(offsetof(winnow_engine_options, threads) == 48);
static_assert(offsetof(winnow_engine_options, progress) == 56);
static_assert(offsetof(winnow_engine_options, user_data) == 64);
static_assert(offsetof(winnow_engine_options, kv) == 72);

static_assert(offsetof(winnow_model_info, size) == 0);
static_assert(offsetof(winnow_model_info, name) == 8);
static_assert(offsetof(winnow_model_info, layers) == 16);
static_assert(offsetof(winnow_model_info, heads) == 24);
static_assert(offsetof(winnow_model_info, kv_heads) == 32);
static_assert(offsetof(winnow_model_info, model_dim) == 40);
static_assert(offsetof(winnow_model_info, vocab) == 48);
static_assert(offsetof(winnow_model_info, context) == 56);
static_assert(offsetof(winnow_model_info, has_tokenizer) == 64);
static_assert(offsetof(winnow_model_info, has_chat_template) == 68);

static_assert(offsetof(winnow_prefill_options, size) == 0);
static_assert(offsetof(winnow_prefill_options, reserve_tokens) == 8);
static_assert(offsetof(winnow_prefill_options, progress) == 16);
static_assert(offsetof(winnow_prefill_options, user_data) == 24);

static_assert(offsetof(winnow_stage, size) == 0);
static_assert(offsetof(winnow_stage, layer) == 8);
static_assert(offsetof(winnow_stage, tokens_before) == 16);
static_assert(offsetof(winnow_stage, tokens_kept) == 24);
static_assert(offsetof(winnow_stage, ms) == 32);
static_assert(offsetof(winnow_stage, kept) == 40);

static_assert(offsetof(winnow_stats, size) == 0);
static_assert(offsetof(winnow_stats, tokens) == 8);
static_assert(offsetof(winnow_stats, room) == 16);
static_assert(offsetof(winnow_stats, prompt_tokens) == 24);
static_assert(offsetof(winnow_stats, kept_tokens) == 32);
static_assert(offsetof(winnow_stats, prefill_ms) == 40);
static_assert(offsetof(winnow_stats, decode_ms) == 48);
static_assert(offsetof(winnow_stats, avgtok) == 56);
static_assert(offsetof(winnow_stats, density) == 64);
static_assert(offsetof(winnow_stats, attention_work) == 72);
static_assert(offsetof(winnow_stats, flops) == 80);
static_assert(offsetof(winnow_stats, kv_bytes) == 88);
static_assert(offsetof(winnow_stats, memory_bytes) == 96);

static_assert(offsetof(winnow_generate_options, size) == 0);
static_assert(offsetof(winnow_generate_options, max_new_tokens) == 8);
static_assert(offsetof(winnow_generate_options, temperature) == 16);
static_assert(offsetof(winnow_generate_options, top_k) == 24);
static_assert(offsetof(winnow_generate_options, top_p) == 32);
static_assert(offsetof(winnow_generate_options, seed) == 40);
static_assert(offsetof(winnow_generate_options, stop) == 48);
static_assert(offsetof(winnow_generate_options, stop_count) == 56);
static_assert(offsetof(winnow_generate_options, new_text) == 64);
static_assert(offsetof(winnow_generate_options, on_token) == 72);
static_assert(offsetof(winnow_generate_options, user_data) == 80);

static_assert(offsetof(winnow_answer, size) == 0);
static_assert(offsetof(winnow_answer, tokens) == 8);
static_assert(offsetof(winnow_answer, count) == 16);
static_assert(offsetof(winnow_answer, text) == 24);
static_assert(offsetof(winnow_answer, text_bytes) == 32);
static_assert(offsetof(winnow_answer, finish) == 40);
static_assert(offsetof(winnow_answer, decode_ms) == 48);

static_assert(offsetof(winnow_evaluate_options, size) == 0);
static_assert(offsetof(winnow_evaluate_options, length) == 8);
static_assert(offsetof(winnow_evaluate_options, windows) == 16);
static_assert(offsetof(winnow_evaluate_options, progress) == 24);
static_assert(offsetof(winnow_evaluate_options, user_data) == 32);

static_assert(offsetof(winnow_quality, size) == 0);
static_assert(offsetof(winnow_quality, windows) == 8);
static_assert(offsetof(winnow_quality, kl) == 16);
static_assert(offsetof(winnow_quality, kl_low) == 24);
static_assert(offsetof(winnow_quality, kl_high) == 32);
static_assert(offsetof(winnow_quality, dce) == 40);
static_assert(offsetof(winnow_quality, dce_low) == 48);
static_assert(offsetof(winnow_quality, dce_high) == 56);
static_assert(offsetof(winnow_quality, top1) == 64);
static_assert(offsetof(winnow_quality, ppl) == 72);
static_assert(offsetof(winnow_quality, avgtok) == 80);
static_assert(offsetof(winnow_quality, density) == 88);
static_assert(offsetof(winnow_quality, kv_share) == 96);
static_assert(offsetof(winnow_quality, speedup) == 104);
static_assert(WINNOW_OK == 0 && WINNOW_IO == 1 && WINNOW_BAD_FORMAT == 2 && WINNOW_UNSUPPORTED == 3 &&
              WINNOW_BAD_ARGUMENT == 4 && WINNOW_OUT_OF_MEMORY == 5 && WINNOW_CANCELLED == 6 &&
              WINNOW_INTERNAL == 7);
static_assert(WINNOW_FINISH_STOP == 0 && WINNOW_FINISH_LENGTH == 1 && WINNOW_FINISH_CALLBACK == 2);
