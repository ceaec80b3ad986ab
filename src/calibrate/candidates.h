// What calibration chooses from: families of policies, each a ladder from careful to bold.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "calibrate/retrieval_signal.h"
#include "sparsity/policy.h"

namespace winnow {

// Heads for a stage before `layer`: of all heads of earlier layers those that need the least of a prompt to
// hold the needle, at most `count`; of equal ones the later. None when every one needs more than `most`.
std::vector<AskedHead> heads_to_ask(const RetrievalSignal& signal, std::int64_t layer, double most,
                                    std::size_t count = 2);

// Stage layers. `first`: the first layer before which some head points at the needle sharply. `early`: the
// first before which some head at least knows its surroundings; none when it is not well before `first`.
struct StagePlaces {
  std::optional<std::int64_t> early, first;
};
StagePlaces find_stage_places(const RetrievalSignal& signal);

// Token policies from careful to bold: one stage at `first`, one more between it and the end, one more at
// `early`. What a stage keeps by score is more than its sharpest head needs. Empty when nothing points at the
// needle.
std::vector<TokenPolicy> token_candidates(const RetrievalSignal& signal);

// Densities of attention that are tried, falling.
std::vector<double> density_candidates();

}  // namespace winnow
