// What scorers are trained by: the squared distance to the targets, and the order of pairs.
#pragma once

#include <cstdint>
#include <span>

#include "eval/text_random.h"

namespace winnow {

struct ScoreLoss {
  double squares = 0;  // mean of (score - target)^2
  double rank =
      0;  // mean of ln(1 + exp(-(s_i - s_j))) over pairs with target_i > target_j: the pairwise logistic loss
};

struct ScoreLossWeights {
  double squares = 1.0, rank = 1.0;
  std::int64_t pairs_of_token = 8;
};

// Scores and targets of the tokens of one window, index by index. gradient += factor x that of
// weights.squares x squares + weights.rank x rank. The pairs are drawn from `random`.
ScoreLoss score_loss(std::span<const float> scores, std::span<const float> targets,
                     const ScoreLossWeights& weights, double factor, TextRandom& random,
                     std::span<float> gradient);

// Spearman's rank correlation; equal values share their mean rank. 0 where one side does not vary.
double rank_correlation(std::span<const float> a, std::span<const float> b);

// Share of the sum of `mass` that the `keep` share of tokens with the highest scores holds (of equal scores
// the later wins).
double mass_kept(std::span<const float> scores, std::span<const float> mass, double keep);

}  // namespace winnow
