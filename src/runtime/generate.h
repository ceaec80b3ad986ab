// generate(): the answer to what a session has read, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/sampler.h"
#include "runtime/session.h"

namespace winnow {

struct GenerateOptions {
  std::span<const TokenId> stop_tokens;  // one of these ends the answer and is no part of it
  std::int64_t max_new_tokens = 128;
  std::function<bool(TokenId)> on_token;  // told every token of the answer; false ends it; may be empty
  std::function<bool()> cancelled;        // asked before every token; may be empty
};

enum class FinishReason {
  kStop,    // a stop token, or on_token said so
  kLength,  // max_new_tokens reached, or the context is full
  kCancelled,
};
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "cancelled"

struct Generation {
  std::vector<TokenId> tokens;
  FinishReason reason = FinishReason::kLength;
  double first_token_ms = 0;  // sampling of the first token; its logits are the prefill's work
  double decode_ms = 0;       // the steps after the first token, sampling included, on_token not
  std::int64_t decode_steps = 0;
  // The last token of `tokens` was sampled but is not in the session's caches: nothing after it was needed. A
  // further turn of the conversation begins with it.
  bool last_token_pending = false;

  double decode_tokens_per_s() const {
    return decode_ms > 0 ? 1000.0 * static_cast<double>(decode_steps) / decode_ms : 0;
  }
};

// session.logits() must be those of the last token read. A token is decoded only when the one after it is
// wanted.
Generation generate(Session& session, Sampler& sampler, const GenerateOptions& options);

}  // namespace winnow
