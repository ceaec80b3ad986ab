// float and bfloat16 elements alike, for the kernels of this folder.
#pragma once

#include <cuda_bf16.h>

namespace winnow::cuda {

__device__ __forceinline__ float load_element(float x) { return x; }
__device__ __forceinline__ float load_element(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store_element(float& to, float x) { to = x; }
__device__ __forceinline__ void store_element(__nv_bfloat16& to, float x) { to = __float2bfloat16(x); }

__device__ __forceinline__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

}  // namespace winnow::cuda
