// What calibration chooses from: families of policies, each a ladder from careful to bold.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sparsity/policy.h"

namespace winnow {

// Stage layers where the prompt's last queries know what they look for. A stage before layer L is scored by
// layer L - 1.
struct StagePlaces {
  std::vector<std::int64_t> informed;  // layers L in 1..layers-1 whose scoring layer recalls the needle
};

// `recall` as measure_retrieval_signal() gives it. A layer is informed when its scoring layer reaches `share`
// of the best recall.
StagePlaces find_stage_places(std::span<const double> recall, double share = 0.9);

// Token policies, from careful to bold, of every family that the places allow: one, two and three stages
// among the informed layers, the first as early as it may be or later; empty when no layer is informed.
std::vector<TokenPolicy> token_candidates(const StagePlaces& places, std::int64_t layers);

// Densities of attention that are tried, falling.
std::vector<double> density_candidates();

}  // namespace winnow
