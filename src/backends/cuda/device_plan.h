// Block plans in device memory: what the planner lists, and what a plan of the host says.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/block_plan.h"
#include "backends/cuda/device.h"
#include "backends/cuda/sparse_attention.h"

namespace winnow::cuda {

// Bytes of the bits of a plan.
std::int64_t plan_bits_bytes(std::int64_t heads, std::int64_t query_blocks, std::int64_t words);

// The blocks that a plan's lists name, in `bits`. The lists travel through the device's ring.
DevicePlan listed_device_plan(const BlockPlan& plan, std::int64_t kv_rows, std::uint32_t* bits,
                              Device& device);

}  // namespace winnow::cuda
