// Rotary embeddings, norms of heads, and appending keys and values to a cache: one warp a head of a row.
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kWarps = 8;

template <class T>
__global__ void __launch_bounds__(32 * kWarps) rope_append_kernel(RopeAppendArgs args) {
  const std::int64_t head_dim = args.head_dim, q_cols = args.heads * head_dim,
                     kv_cols = args.kv_heads * head_dim;
  const std::int64_t heads = args.heads + 2 * args.kv_heads;  // of q, k and v
  const std::int64_t at = blockIdx.x * std::int64_t{kWarps} + threadIdx.x / 32;
  if (at >= args.rows * heads) return;
  const std::int64_t row = at / heads, head = at % heads;
  const int lane = threadIdx.x % 32;
  const T* x = static_cast<const T*>(args.qkv) + row * (q_cols + 2 * kv_cols) + head * head_dim;
  const bool is_q = head < args.heads, is_v = head >= args.heads + args.kv_heads;
  T* y = nullptr;
  if (is_q) {
    y = static_cast<T*>(args.q) + row * q_cols + head * head_dim;
  } else {
    const std::int64_t cached = (*args.first_row + row) * kv_cols;
    y = is_v ? static_cast<T*>(args.v) + cached + (head - args.heads - args.kv_heads) * head_dim
             : static_cast<T*>(args.k) + cached + (head - args.heads) * head_dim;
  }
  if (is_v) {
    for (std::int64_t i = lane; i < head_dim; i += 32) y[i] = x[i];
    return;
  }
  const float* weight = is_q ? args.q_norm : args.k_norm;
  float scale = 1.0f;
  if (weight != nullptr) {
    float squares = 0.0f;
    for (std::int64_t i = lane; i < head_dim; i += 32) squares += to_f32(x[i]) * to_f32(x[i]);
    scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(head_dim) + args.norm_epsilon);
  }
  const auto normed = [&](std::int64_t i) {
    return weight == nullptr ? to_f32(x[i]) : to_f32(x[i]) * scale * weight[i];
  };
  const std::int64_t half = args.rotary_dim / 2;
  const float *cos = args.cos + args.positions[row] * half, *sin = args.sin + args.positions[row] * half;
  for (std::int64_t i = lane; i < half; i += 32) {
    const float first = normed(i), second = normed(half + i);
    y[i] = from_f32<T>(first * cos[i] - second * sin[i]);
    y[half + i] = from_f32<T>(second * cos[i] + first * sin[i]);
  }
  for (std::int64_t i = 2 * half + lane; i < head_dim; i += 32) y[i] = from_f32<T>(normed(i));
}

}  // namespace

void launch_rope_append(const RopeAppendArgs& args, cudaStream_t stream) {
  const std::int64_t warps = args.rows * (args.heads + 2 * args.kv_heads);
  if (warps == 0) return;
  const auto blocks = static_cast<unsigned>((warps + kWarps - 1) / kWarps);
  if (args.bf16) {
    rope_append_kernel<bf16><<<blocks, 32 * kWarps, 0, stream>>>(args);
  } else {
    rope_append_kernel<float><<<blocks, 32 * kWarps, 0, stream>>>(args);
  }
  check_launch("rope_append");
}

}  // namespace winnow::cuda
