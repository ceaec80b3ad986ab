// Activations between the up and the down product.
#include "backends/cuda/activate.cuh"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 256;

// A thread takes a pack of one row; in place is fine for the ungated kinds. Blocks: a row's packs, rows.
template <class T, Activation kKind>
__global__ void __launch_bounds__(kThreads) activation_kernel(const T* x, T* y, std::int64_t dim) {
  constexpr bool kGated = kKind == Activation::kSiluGated || kKind == Activation::kGeluTanhGated;
  constexpr int n = kPack<T>;
  const bool packed = dim % n == 0;
  const int step = packed ? n : 1;
  const std::int64_t row = blockIdx.y, i = (blockIdx.x * std::int64_t{kThreads} + threadIdx.x) * step;
  if (i >= dim) return;
  const T* gate = x + row * (kGated ? 2 * dim : dim) + i;
  T* out = y + row * dim + i;
  if (!packed) {
    const float value = activate<T, kKind>(to_f32(gate[0]));
    out[0] = from_f32<T>(kGated ? value * to_f32(gate[dim]) : value);
    return;
  }
  float g[n], u[n];
  load_pack(gate, g);
  if constexpr (kGated) load_pack(gate + dim, u);
  alignas(16) T result[n];
#pragma unroll
  for (int j = 0; j < n; ++j) {
    const float value = activate<T, kKind>(g[j]);
    result[j] = from_f32<T>(kGated ? value * u[j] : value);
  }
  *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(result);
}

template <class T, Activation kKind>
void launch(const T* x, T* y, std::int64_t rows, std::int64_t dim, cudaStream_t stream) {
  constexpr std::int64_t kMostRows = 65535;  // of a grid
  constexpr std::int64_t kRowElements =
      kKind == Activation::kSiluGated || kKind == Activation::kGeluTanhGated ? 2 : 1;
  const std::int64_t packs = dim % kPack<T> == 0 ? dim / kPack<T> : dim;
  for (std::int64_t row = 0; row < rows; row += kMostRows) {
    const dim3 grid(static_cast<unsigned>((packs + kThreads - 1) / kThreads),
                    static_cast<unsigned>(min(kMostRows, rows - row)));
    activation_kernel<T, kKind>
        <<<grid, kThreads, 0, stream>>>(x + row * kRowElements * dim, y + row * dim, dim);
  }
}

template <class T>
void launch(Activation kind, const void* from, void* to, std::int64_t rows, std::int64_t dim,
            cudaStream_t stream) {
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  switch (kind) {
    case Activation::kSiluGated: return launch<T, Activation::kSiluGated>(x, y, rows, dim, stream);
    case Activation::kGeluTanh: return launch<T, Activation::kGeluTanh>(x, y, rows, dim, stream);
    case Activation::kGeluErf: return launch<T, Activation::kGeluErf>(x, y, rows, dim, stream);
    case Activation::kGeluTanhGated: return launch<T, Activation::kGeluTanhGated>(x, y, rows, dim, stream);
  }
}

}  // namespace

void launch_activation(Activation kind, const void* x, void* y, std::int64_t rows, std::int64_t dim,
                       bool use_bf16, cudaStream_t stream) {
  if (rows == 0 || dim == 0) return;
  if (use_bf16) {
    launch<bf16>(kind, x, y, rows, dim, stream);
  } else {
    launch<float>(kind, x, y, rows, dim, stream);
  }
  check_launch("activation");
}

}  // namespace winnow::cuda
