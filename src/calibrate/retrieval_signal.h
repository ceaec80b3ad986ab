// Where the retrieval signal lives: from which layer on the attention of a prompt's last queries points at
// the tokens that hold the answer. A stage that scores tokens before that layer scores them blindly.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace winnow {

struct NeedlePrompt {
  std::vector<TokenId> tokens;
  std::string needle;  // occurs once in the prompt's text
};

struct SignalSettings {
  std::int64_t window = 32;  // last queries that vote, max over the heads
  std::int64_t pool = 31;    // tokens around each that share its score, odd: a question attends to a needle's
                             // words, its number comes a few tokens later
  double share = 0.2;        // of the prompt's tokens that count as found
};

// [layers] recall: the share of the needle's tokens that are among the `share` of the prompt's tokens which
// the layer's attention rates highest, mean over the prompts. Empty when cancelled. Error(kUnsupported) when
// a prompt's tokens do not spell its needle. Progress is told as a share, 0..1.
std::vector<double> measure_retrieval_signal(const Engine& engine, std::span<const NeedlePrompt> prompts,
                                             const SignalSettings& settings,
                                             const std::function<void(double)>& progress,
                                             const std::function<bool()>& cancelled);

// Indices of the tokens whose bytes overlap the first occurrence of `needle`. Empty when it does not occur.
std::vector<std::int64_t> needle_tokens(const Tokenizer& tokenizer, const NeedlePrompt& prompt);

}  // namespace winnow
