// Block plans in device memory: what the planner lists, what a plan of the host says, and the full plan that
// dense attention runs over.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/block_plan.h"
#include "backends/cuda/device.h"
#include "backends/cuda/sparse_attention.h"

namespace winnow::cuda {

// The queries of one call of attention().
struct PlanQueries {
  std::int64_t queries = 0, kv_rows = 0;
  const std::int32_t* query_rows = nullptr;  // device; null: first_row + i
  std::int64_t first_row = 0;
};

// Bytes of the bits of a plan.
std::int64_t plan_bits_bytes(std::int64_t heads, std::int64_t query_blocks, std::int64_t words);

// Every block with a causal pair, one row of bits for each kv head, in `bits`.
DevicePlan full_device_plan(const PlanQueries& queries, std::int64_t kv_heads, std::int64_t q_block,
                            std::int64_t k_block, std::uint32_t* bits, cudaStream_t stream);
// The blocks that a plan's lists name; `bits` as above. The lists travel through the device's ring.
DevicePlan listed_device_plan(const BlockPlan& plan, std::int64_t kv_rows, std::uint32_t* bits,
                              Device& device);

}  // namespace winnow::cuda
