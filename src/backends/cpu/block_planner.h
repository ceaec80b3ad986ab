// Block planning and exact probabilities over the CPU backend's cache layout.
#pragma once

#include <memory>

#include "backends/backend.h"
#include "backends/cpu/tile_kernels.h"

namespace winnow::cpu {

void attention_probs(const AttentionProbsParams& params, const TileKernels& kernels, int threads);
std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams& params, const TileKernels& kernels,
                                           int threads);

}  // namespace winnow::cpu
