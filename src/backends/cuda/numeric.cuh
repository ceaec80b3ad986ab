// Loading and storing of float32 and bfloat16, sixteen bytes at a time where that is possible, and reductions
// within a block.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace winnow::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float to_f32(float x) { return x; }
__device__ inline float to_f32(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ inline T from_f32(float x);
template <>
__device__ inline float from_f32<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_f32<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// Elements in sixteen bytes.
template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

__device__ inline void load_pack(const float* p, float (&x)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
__device__ inline void load_pack(const bf16* p, float (&x)[8]) {
  const uint4 v = *reinterpret_cast<const uint4*>(p);
  const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(words[i] << 16);
    x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// Of all threads of a block of at most 1024; every thread gets the result. `shared` holds 33 floats. In the
// same order every time. reduce_warp(x): over the warp; `nothing`: what does not change a result.
template <class Reduce>
__device__ inline float block_reduce(float x, float nothing, float* shared, const Reduce& reduce_warp) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = (blockDim.x + 31) / 32;
  x = reduce_warp(x);
  __syncthreads();
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  if (warp == 0) {
    x = reduce_warp(lane < warps ? shared[lane] : nothing);
    if (lane == 0) shared[32] = x;
  }
  __syncthreads();
  return shared[32];
}
__device__ inline float block_sum(float x, float* shared) {
  return block_reduce(x, 0.0f, shared, [](float y) { return warp_sum(y); });
}
__device__ inline float block_max(float x, float* shared) {
  return block_reduce(x, -INFINITY, shared, [](float y) { return warp_max(y); });
}

}  // namespace winnow::cuda
