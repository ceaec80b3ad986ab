#include "runtime/generate.h"

#include <algorithm>
#include <chrono>

#include "core/elapsed.h"

namespace winnow {

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kCancelled: return "cancelled";
  }
  return "?";
}

Generation generate(Session& session, Sampler& sampler, const GenerateOptions& options) {
  Generation answer;
  while (static_cast<std::int64_t>(answer.tokens.size()) < options.max_new_tokens) {
    if (options.cancelled && options.cancelled()) {
      answer.reason = FinishReason::kCancelled;
      break;
    }
    if (answer.last_token_pending && session.room() < 1) break;  // kLength
    const auto start = std::chrono::steady_clock::now();
    const bool first = answer.tokens.empty();
    if (!first) {
      session.decode(answer.tokens.back());
      answer.last_token_pending = false;
      ++answer.decode_steps;
    }
    const TokenId token = sampler.sample(session.logits());
    (first ? answer.first_token_ms : answer.decode_ms) += ms_since(start);
    if (std::find(options.stop_tokens.begin(), options.stop_tokens.end(), token) !=
        options.stop_tokens.end()) {
      answer.reason = FinishReason::kStop;
      break;
    }
    answer.tokens.push_back(token);
    answer.last_token_pending = true;
    if (options.on_token && !options.on_token(token)) {
      answer.reason = FinishReason::kStop;
      break;
    }
  }
  return answer;
}

}  // namespace winnow
