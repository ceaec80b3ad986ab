// The CUDA backend's BlockPlanner: choosing blocks by block_planning.h, on the GPU. Only how many pairs a
// plan computes comes back to the host, which asks whether skipping pays.
#pragma once

#include <memory>

#include "backends/backend.h"
#include "backends/cuda/device.h"

namespace winnow::cuda {

// The blocks of a BlockPlan that this planner made: bits [heads, query_blocks, words].
struct BlocksOnDevice final : HeldBlocks {
  Buffer bits;
  std::int64_t words = 0;
};

std::unique_ptr<BlockPlanner> make_cuda_planner(const BlockPlannerParams& params, DType dtype,
                                                Device& device);

}  // namespace winnow::cuda
