// The kernel of GatedLinear (gated_linear.h): act(x G^T) * (x U^T) without the two products in memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backends/cuda/kernels.h"

namespace winnow::cuda {

// y = act(x G^T) * (x U^T), bf16, sums and activation in float32.
struct GatedLinearArgs {
  const void* x;       // [rows, in]
  const void* weight;  // [2 * dim, in]: G | U
  void* y;             // [rows, dim]
  std::int64_t rows, in, dim;
  Activation kind;  // a gated one
};
// in and dim are multiples of 8, pointers of 16 bytes.
bool gated_kernel_takes(const GatedLinearArgs& args);

// `group`: pairs of row tiles (of 128 rows) whose columns are taken together; the results are the same bits.
void launch_gated_kernel(const GatedLinearArgs& args, int group, int multiprocessors, cudaStream_t stream);

}  // namespace winnow::cuda
