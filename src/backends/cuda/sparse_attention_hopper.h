// The tensor-core kernel behind attend_blocks(): sparse_attention_hopper.cuh. For sparse_attention.cu only.
#pragma once

#include "backends/cuda/sparse_attention.h"

namespace winnow::cuda {

// The shapes it is built for, without asking the device.
bool hopper_takes(const BlockAttentionParams& params);
std::int64_t hopper_workspace(std::int64_t tiles);
void attend_blocks_hopper(const BlockAttentionParams& params, cudaStream_t stream);

}  // namespace winnow::cuda
