// The activations between the up and the down product, of one number.
#pragma once

#include "backends/cuda/kernels.h"

namespace winnow::cuda {

// What is stored as bf16 (T) is rounded anyway: there, exp and the division of the special function unit do.
template <class T, Activation kKind>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kKind == Activation::kSiluGated && sizeof(T) == 2) return __fdividef(x, 1.0f + __expf(-x));
  if constexpr (kKind == Activation::kSiluGated) return x / (1.0f + expf(-x));
  if constexpr (kKind == Activation::kGeluErf) return 0.5f * x * erfcf(-x * 0.70710678118654752f);
  const float inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + tanhf(inner));
}

}  // namespace winnow::cuda
