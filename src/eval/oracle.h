// The scorer oracle: scores a prompt's tokens by the attention that the text after the prompt really pays
// them. A ceiling for scorers, not a policy: it needs that text, and a dense pass over everything.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "runtime/session.h"

namespace winnow {

class Oracle {
 public:
  // Reads `prompt` and `following` densely. The queries that count are those that look for the following
  // tokens: the prompt's last token, and `following` but for its last. Nothing when `cancelled`.
  static std::optional<Oracle> observe(const Engine& engine, std::span<const TokenId> prompt,
                                       std::span<const TokenId> following,
                                       const std::function<bool()>& cancelled);

  // A stage's scores, as PrefillOptions::stage_scores wants them: the sum over those queries, the maximum
  // over heads and over the stage's layer and all later ones. `recency_mix` as in TokenPolicy.
  void score(std::int64_t layer, std::span<const std::int32_t> positions, double recency_mix,
             std::span<float> scores) const;

 private:
  std::vector<std::vector<float>>
      from_layer_;  // [layers][prompt tokens]: maximum over this layer and later ones
};

}  // namespace winnow
