// Where the retrieval signal lives: which heads' attention, paid by a prompt's last queries, points at the
// tokens that hold the answer. A stage scored by other heads, or before those have run, is scored blindly.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace winnow {

struct NeedlePrompt {
  std::vector<TokenId> tokens;
  std::string needle;  // occurs once in the prompt's text
};

// How tokens are scored and what counts as found: as the stages that calibration makes do it.
struct SignalSettings {
  std::int64_t window = 64;  // last queries that vote, by their maximum
  std::int64_t pool = 31;    // tokens around each that share its score, odd: a question attends to a needle's
                             // words, its number comes a few tokens later
  double share = 0.1;        // of the prompt's tokens, for recall
  std::int64_t skip_first = 4;  // tokens at the ends that are kept anyway and compete with none
  std::int64_t skip_last = 64;
};

// [layers][heads] each.
struct RetrievalSignal {
  std::int64_t layers = 0, heads = 0;
  std::vector<double> recall;  // share of the needle's tokens among the `share` that the head rates highest
  std::vector<double> needed;  // least share that would have held all of them in every prompt

  std::size_t index(std::int64_t layer, std::int64_t head) const {
    return static_cast<std::size_t>(layer * heads + head);
  }
  std::vector<double> recall_by_layer() const;  // of each layer's best head
};
nlohmann::json to_json(const RetrievalSignal& signal);
// Error(kBadFormat) when sizes do not fit; nlohmann's exceptions for anything else.
RetrievalSignal retrieval_signal_from_json(const nlohmann::json& json);

// No layers when cancelled. Error(kUnsupported) when a prompt's tokens do not spell its needle. Progress is
// told as a share, 0..1.
RetrievalSignal measure_retrieval_signal(const Engine& engine, std::span<const NeedlePrompt> prompts,
                                         const SignalSettings& settings,
                                         const std::function<void(double)>& progress,
                                         const std::function<bool()>& cancelled);

// Indices of the tokens whose bytes overlap the first occurrence of `needle`. Empty when it does not occur.
std::vector<std::int64_t> needle_tokens(const Tokenizer& tokenizer, const NeedlePrompt& prompt);

}  // namespace winnow
