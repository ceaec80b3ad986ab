// Rotary embeddings, norms of heads, and appending keys and values to a cache. Heads that are rotated whole
// and whose halves are some packs of sixteen bytes take a thread for a pack of each half; all others a warp.
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

template <class T>
__device__ void store_pack(T* to, const float (&values)[kPack<T>]) {
  alignas(16) T pack[kPack<T>];
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) pack[i] = from_f32<T>(values[i]);
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(pack);
}

// kLanes threads a head: each has a pack of the first half and its partner in the second.
template <class T, int kLanes>
__global__ void __launch_bounds__(32 * kWarps) rope_append_packs(RopeAppendArgs args) {
  constexpr int n = kPack<T>, half = kLanes * n, head_dim = 2 * half;
  const auto heads = static_cast<unsigned>(args.heads), kv_heads = static_cast<unsigned>(args.kv_heads);
  const unsigned all = heads + 2 * kv_heads;  // of q, k and v
  const unsigned at = blockIdx.x * (32 * kWarps / kLanes) + threadIdx.x / kLanes;
  if (at >= static_cast<unsigned>(args.rows) * all) return;
  const unsigned row = at / all, head = at % all;
  const int i = static_cast<int>(threadIdx.x) % kLanes * n;
  const T* x = static_cast<const T*>(args.qkv) + std::int64_t{at} * head_dim + i;
  const bool is_q = head < heads, is_v = head >= heads + kv_heads;
  T* y = nullptr;
  if (is_q) {
    y = static_cast<T*>(args.q) + (std::int64_t{row} * heads + head) * head_dim + i;
  } else {
    T* cache = static_cast<T*>(is_v ? args.v : args.k);
    const unsigned kv_head = head - heads - (is_v ? kv_heads : 0);
    y = cache + ((std::int64_t{*args.first_row} + row) * kv_heads + kv_head) * head_dim + i;
  }
  if (is_v) {
    *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(x);
    *reinterpret_cast<uint4*>(y + half) = *reinterpret_cast<const uint4*>(x + half);
    return;
  }
  float first[n], second[n], rotated[n];
  load_pack(x, first);
  load_pack(x + half, second);
  const float* weight = is_q ? args.q_norm : args.k_norm;
  if (weight != nullptr) {
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < n; ++j) squares += first[j] * first[j] + second[j] * second[j];
    // The lanes of a head that is a value may have left, those of this one are all here.
    const unsigned lanes = ((std::uint64_t{1} << kLanes) - 1) << (threadIdx.x % 32 / kLanes * kLanes);
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(lanes, squares, step);
    const float scale = 1.0f / sqrtf(squares / head_dim + args.norm_epsilon);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      first[j] *= scale * weight[i + j];
      second[j] *= scale * weight[half + i + j];
    }
  }
  const std::int64_t angle = args.positions[row] * std::int64_t{half} + i;
  float cos[n], sin[n];
#pragma unroll
  for (int j = 0; j < n; j += 4) {
    load_pack(args.cos + angle + j, reinterpret_cast<float(&)[4]>(cos[j]));
    load_pack(args.sin + angle + j, reinterpret_cast<float(&)[4]>(sin[j]));
  }
#pragma unroll
  for (int j = 0; j < n; ++j) rotated[j] = first[j] * cos[j] - second[j] * sin[j];
  store_pack(y, rotated);
#pragma unroll
  for (int j = 0; j < n; ++j) rotated[j] = second[j] * cos[j] + first[j] * sin[j];
  store_pack(y + half, rotated);
}

template <class T, int kLanes>
bool launch_packs(const RopeAppendArgs& args, cudaStream_t stream) {
  if (args.rotary_dim != args.head_dim || args.head_dim != 2 * kLanes * kPack<T>) return false;
  constexpr std::int64_t kHeads = 32 * kWarps / kLanes;  // of a block
  const std::int64_t heads = args.rows * (args.heads + 2 * args.kv_heads);
  rope_append_packs<T, kLanes>
      <<<static_cast<unsigned>((heads + kHeads - 1) / kHeads), 32 * kWarps, 0, stream>>>(args);
  return true;
}

}  // namespace

void launch_rope_append(const RopeAppendArgs& args, cudaStream_t stream) {
  const std::int64_t warps = args.rows * (args.heads + 2 * args.kv_heads);
  if (warps == 0) return;
  // head_dim 64, 128 and 256 of bf16; 64, 128 of float32.
  const bool packs = args.bf16
                         ? launch_packs<bf16, 4>(args, stream) || launch_packs<bf16, 8>(args, stream) ||
                               launch_packs<bf16, 16>(args, stream)
                         : launch_packs<float, 8>(args, stream) || launch_packs<float, 16>(args, stream);
  if (packs) return check_launch("rope_append");
  const auto blocks = static_cast<unsigned>((warps + kWarps - 1) / kWarps);
  if (args.bf16) {
    rope_append_kernel<bf16><<<blocks, 32 * kWarps, 0, stream>>>(args);
  } else {
    rope_append_kernel<float><<<blocks, 32 * kWarps, 0, stream>>>(args);
  }
  check_launch("rope_append");
}

}  // namespace winnow::cuda
