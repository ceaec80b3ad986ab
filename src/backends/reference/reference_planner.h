// The reference planner's estimates, for tests: with them one can say whether a block that only one of two
// planners lists lies at the cut.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backends/backend.h"

namespace winnow::reference {

// What each causal key block is worth to each query block of one head, [query blocks][causal key blocks].
// Not for the estimators kNone and kVerticalSlash, which do not estimate blocks.
std::vector<std::vector<float>> block_estimates(const BlockPlannerParams& params, const MatrixView& q,
                                                std::span<const std::int64_t> query_rows, std::int64_t head);

}  // namespace winnow::reference
