// RMS norm and LayerNorm: one block a row.
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 256;

template <class T, bool kLayer, bool kAccumulate>
__global__ void __launch_bounds__(kThreads) norm_kernel(NormArgs args) {
  __shared__ float shared[33];
  const std::int64_t dim = args.dim;
  const float* x = args.x + blockIdx.x * dim;
  T* y = static_cast<T*>(args.y) + blockIdx.x * dim;
  const bool packed = dim % 4 == 0;
  float mean = 0.0f;
  if (kLayer) {
    float sum = 0.0f;
    for (std::int64_t i = threadIdx.x; i < dim; i += kThreads) sum += x[i];
    mean = block_sum(sum, shared) / static_cast<float>(dim);
  }
  float squares = 0.0f;
  if (packed) {
    for (std::int64_t i = 4 * threadIdx.x; i < dim; i += 4 * kThreads) {
      float v[4];
      load_pack(x + i, v);
#pragma unroll
      for (int j = 0; j < 4; ++j) squares += (v[j] - mean) * (v[j] - mean);
    }
  } else {
    for (std::int64_t i = threadIdx.x; i < dim; i += kThreads) squares += (x[i] - mean) * (x[i] - mean);
  }
  const float scale = 1.0f / sqrtf(block_sum(squares, shared) / static_cast<float>(dim) + args.epsilon);
  const auto value = [&](std::int64_t i, float v) {
    float normed = (v - mean) * scale * args.weight[i];
    if (args.bias != nullptr) normed += args.bias[i];
    return kAccumulate ? normed + to_f32(y[i]) : normed;
  };
  if (packed) {
    for (std::int64_t i = 4 * threadIdx.x; i < dim; i += 4 * kThreads) {
      float v[4];
      load_pack(x + i, v);
      alignas(16) T out[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) out[j] = from_f32<T>(value(i + j, v[j]));
      if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<uint4*>(y + i) = *reinterpret_cast<const uint4*>(out);
      } else {
        *reinterpret_cast<uint2*>(y + i) = *reinterpret_cast<const uint2*>(out);
      }
    }
  } else {
    for (std::int64_t i = threadIdx.x; i < dim; i += kThreads) y[i] = from_f32<T>(value(i, x[i]));
  }
}

template <class T, bool kAccumulate>
void launch(const NormArgs& args, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(args.rows);
  if (args.layer) {
    norm_kernel<T, true, kAccumulate><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    norm_kernel<T, false, kAccumulate><<<blocks, kThreads, 0, stream>>>(args);
  }
}

}  // namespace

void launch_norm(const NormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  if (args.bf16) {
    launch<bf16, false>(args, stream);
  } else if (args.accumulate) {
    launch<float, true>(args, stream);
  } else {
    launch<float, false>(args, stream);
  }
  check_launch("norm");
}

}  // namespace winnow::cuda
