// Products with a few rows: every warp takes output features one by one and reads each weight once.
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kUnroll = 4;  // packs of a weight row in flight a lane

template <class T, int kRows>
__device__ void add_products(const T* weight, const T* x, std::int64_t in, std::int64_t i,
                             float (&sums)[kRows]) {
  constexpr int n = kPack<T>;
  float w[n];
  load_pack(weight, w);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float v[n];
    load_pack(x + r * in + i, v);
#pragma unroll
    for (int j = 0; j < n; ++j) sums[r] = fmaf(w[j], v[j], sums[r]);
  }
}

template <class T, class Y, int kRows>
__global__ void __launch_bounds__(32 * kWarps) gemv_kernel(GemvArgs args) {
  constexpr int n = kPack<T>;
  const std::int64_t out = blockIdx.x * std::int64_t{kWarps} + threadIdx.x / 32;
  if (out >= args.out) return;
  const int lane = threadIdx.x % 32;
  const T* weight = static_cast<const T*>(args.weight) + out * args.in;
  const T* x = static_cast<const T*>(args.x);
  float sums[kRows] = {};
  std::int64_t i = lane * n;
  for (; i + (kUnroll - 1) * 32 * n < args.in; i += kUnroll * 32 * n) {
    uint4 packs[kUnroll];  // all loads before the first use
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      packs[u] = __ldcs(reinterpret_cast<const uint4*>(weight + i + u * 32 * n));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      add_products<T, kRows>(reinterpret_cast<const T*>(&packs[u]), x, args.in, i + u * 32 * n, sums);
    }
  }
  for (; i < args.in; i += 32 * n) add_products<T, kRows>(weight + i, x, args.in, i, sums);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float value = warp_sum(sums[r]);
    if (lane != 0) continue;
    if (args.bias != nullptr) value += args.bias[out];
    Y* y = static_cast<Y*>(args.y) + r * args.out + out;
    if (args.accumulate) value += to_f32(*y);
    *y = from_f32<Y>(value);
  }
}

template <class T, class Y, int kRows>
void launch_rows(const GemvArgs& args, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((args.out + kWarps - 1) / kWarps);
  gemv_kernel<T, Y, kRows><<<blocks, 32 * kWarps, 0, stream>>>(args);
}

template <class T, class Y>
void launch(const GemvArgs& args, cudaStream_t stream) {
  switch (args.rows) {
    case 1: return launch_rows<T, Y, 1>(args, stream);
    case 2: return launch_rows<T, Y, 2>(args, stream);
    case 3: return launch_rows<T, Y, 3>(args, stream);
    case 4: return launch_rows<T, Y, 4>(args, stream);
    case 5: return launch_rows<T, Y, 5>(args, stream);
    case 6: return launch_rows<T, Y, 6>(args, stream);
    case 7: return launch_rows<T, Y, 7>(args, stream);
    default: return launch_rows<T, Y, 8>(args, stream);
  }
}

}  // namespace

void launch_gemv(const GemvArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  if (!args.bf16) {
    launch<float, float>(args, stream);
  } else if (args.y_bf16) {
    launch<bf16, bf16>(args, stream);
  } else {
    launch<bf16, float>(args, stream);
  }
  check_launch("gemv");
}

}  // namespace winnow::cuda
