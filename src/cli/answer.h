// One answer: prefill under a policy, then tokens until something ends it, with everything measured on the
// way. What `run` (all of its modes) and `batch` do for a prompt.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/progress.h"
#include "runtime/generate.h"
#include "runtime/session.h"

namespace winnow::cli {

struct AnswerOptions {
  const Tokenizer& tokenizer;
  const Policy& policy;
  std::int64_t max_new_tokens = 128;
  bool begins_text = true;  // as AnswerText: false where the answer goes on with the prompt's text
  std::vector<std::string> stop_strings = {};
  std::function<void(const std::string&)> on_text = {};  // the answer as it is made; may be empty
  std::function<bool()> cancelled = {};                  // may be empty
  ProgressStyle progress = ProgressStyle::kNone;         // of the prefill
  bool positions = false;                                // note which tokens each stage keeps
};

struct Answer {
  std::string text;
  bool prefilled = false;  // false: cancelled before the prompt was read; the session is as before
  Generation generation;
  std::int64_t prompt_tokens = 0;
  double tokenise_ms = 0;
  std::vector<StageRecord> stages;
  std::vector<std::vector<std::int32_t>> kept;  // [stages] places in the prompt, if asked for
  std::vector<BlockRecord> blocks;              // by layer; empty without a block selector
  PassStats prefill, decode;
  std::vector<float> first_logits;    // [vocab] at the answer's first token
  std::vector<std::int64_t> kv_lens;  // [layers] after the prefill
  std::int64_t kv_bytes = 0;          // after the prefill

  std::int64_t kept_tokens() const { return stages.empty() ? prompt_tokens : stages.back().tokens_kept; }
  // From the text of the prompt to the first token of the answer.
  double ttft_ms() const { return tokenise_ms + prefill.ms + generation.first_token_ms; }
};

// A prompt's tokens and the time it took to make them.
struct TokenisedPrompt {
  std::vector<TokenId> tokens;
  double ms = 0;
};
TokenisedPrompt tokenise(const std::function<std::vector<TokenId>()>& encode);

Answer answer_prompt(Session& session, Sampler& sampler, const TokenisedPrompt& prompt,
                     const AnswerOptions& options);

// {policy, text, tokens[], finish_reason, prompt_tokens, kept_tokens, prefill_ms, ttft_ms, decode_ms, ...}
nlohmann::json to_json(const Answer& answer, const Policy& policy);

// What block selection did in each layer: [{layer, rows, density, plan_ms, attention_ms, gated, ...}]
nlohmann::json layers_json(const std::vector<BlockRecord>& blocks);

// "1024 prompt tokens, 430 kept; first token after 312 ms; 45 tokens at 38.2/s; KV cache 8.1 MB", and the
// density of attention under a block selector
std::string summary(const Answer& answer);

}  // namespace winnow::cli
