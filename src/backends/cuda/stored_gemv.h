// Kernels on quantised weights as stored, one part of a matrix (stored_weight.h) at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backends/cpu/stored_blocks.h"
#include "backends/cuda/kernels.h"

namespace winnow::cuda {

struct StoredPart {
  cpu::BlockKind kind;
  const std::uint8_t* groups;  // of 16 rows each, the blocks of a group one after the other
  std::int64_t first_row, rows;
};

// Columns [part.first_row, + part.rows) of args.y.
void launch_stored_gemv(const StoredPart& part, const GemvArgs& args, cudaStream_t stream);
// hidden[i] = scale * row rows[i], of those that are in the part.
void launch_stored_embed(const StoredPart& part, std::int64_t columns, const std::int32_t* rows, float scale,
                         float* hidden, std::int64_t count, cudaStream_t stream);

}  // namespace winnow::cuda
