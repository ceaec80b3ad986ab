// Causal attention (dense, or by a plan) and window scores over the CPU backend's cache layout, on a given
// set of tile kernels.
#pragma once

#include "backends/backend.h"
#include "backends/cpu/tile_kernels.h"

namespace winnow::cpu {

void attention(const AttentionParams& params, const TileKernels& kernels, int threads);
void window_scores(const WindowScoresParams& params, const TileKernels& kernels, int threads);

}  // namespace winnow::cpu
