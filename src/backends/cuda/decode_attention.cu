// Attention of one query: the cache is split among blocks of threads, their results are merged by a second
// kernel. The number of parts follows from the cache's capacity, so that a recorded step (step_graph.h)
// serves a cache that grows.
#include <cmath>

#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kWarps = 8;
constexpr std::int64_t kMaxParts = 64, kMinPartRows = 64;  // parts: no more than the merging threads
constexpr int kMaxGroup = 8;

// Rows of the cache that one block of threads takes.
__host__ __device__ std::int64_t part_rows(std::int64_t capacity) {
  const std::int64_t rows = (capacity + kMaxParts - 1) / kMaxParts;
  return rows < kMinPartRows ? kMinPartRows : (rows + kWarps - 1) / kWarps * kWarps;
}
std::int64_t part_count(std::int64_t capacity) {
  const std::int64_t rows = part_rows(capacity);
  return (capacity + rows - 1) / rows;
}

// What a lane loads of a row, in one piece where its size is a power of two.
template <class T, int n>
struct alignas(n == 3 ? sizeof(T) : (n * sizeof(T) > 16 ? 16 : n * sizeof(T))) Lane {
  T x[n];
};
template <class T, int n>
__device__ Lane<T, n> load_lane(const T* p) {
  return *reinterpret_cast<const Lane<T, n>*>(p);
}

// A part's result of a head: [head_dim] sums of values, then maximum and sum of the exponentials.
template <class T, int kPerLane, int kGroup>
__global__ void __launch_bounds__(32 * kWarps) decode_kernel(DecodeAttentionArgs args, std::int64_t parts) {
  extern __shared__ float merged[];  // [kWarps][group][32 * kPerLane + 2]
  constexpr int kDim = 32 * kPerLane;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::int64_t kv_head = blockIdx.x, part = blockIdx.y;
  const int group = static_cast<int>(args.heads / args.cache.kv_heads);
  const std::int64_t stride = args.cache.kv_heads * kDim;
  const std::int64_t end = args.seen[0] + 1, window_first = args.seen[1];
  const std::int64_t rows = part_rows(args.capacity);
  const std::int64_t first = part * rows > window_first ? part * rows : window_first;
  const std::int64_t last = (part + 1) * rows < end ? (part + 1) * rows : end;

  float q[kGroup][kPerLane], out[kGroup][kPerLane], highest[kGroup], total[kGroup];
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    highest[g] = -INFINITY, total[g] = 0.0f;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      out[g][i] = 0.0f;
      q[g][i] =
          g < group
              ? to_f32(static_cast<const T*>(args.q)[(kv_head * group + g) * kDim + lane * kPerLane + i]) *
                    args.scale
              : 0.0f;
    }
  }
  const T* keys = static_cast<const T*>(args.cache.k) + kv_head * kDim + lane * kPerLane;
  const T* values = static_cast<const T*>(args.cache.v) + kv_head * kDim + lane * kPerLane;
  for (std::int64_t row = first + warp; row < last; row += kWarps) {
    const auto key = load_lane<T, kPerLane>(keys + row * stride),
               value = load_lane<T, kPerLane>(values + row * stride);
    float k[kPerLane], v[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) k[i] = to_f32(key.x[i]), v[i] = to_f32(value.x[i]);
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      float logit = 0.0f;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) logit = fmaf(q[g][i], k[i], logit);
      logit = warp_sum(logit);
      const float new_highest = fmaxf(highest[g], logit);
      const float factor = expf(highest[g] - new_highest), share = expf(logit - new_highest);
      highest[g] = new_highest;
      total[g] = total[g] * factor + share;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) out[g][i] = fmaf(share, v[i], out[g][i] * factor);
    }
  }
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    float* to = merged + (warp * kGroup + g) * (kDim + 2);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) to[lane * kPerLane + i] = out[g][i];
    if (lane == 0) to[kDim] = highest[g], to[kDim + 1] = total[g];
  }
  __syncthreads();
  for (int g = 0; g < group; ++g) {
    float top = -INFINITY;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, merged[(w * kGroup + g) * (kDim + 2) + kDim]);
    float* to = args.partial + ((kv_head * group + g) * parts + part) * (kDim + 2);
    for (int d = threadIdx.x; d < kDim + 2; d += 32 * kWarps) {
      if (d == kDim) {
        to[d] = top;
        continue;
      }
      float sum = 0.0f;
      for (int w = 0; w < kWarps; ++w) {
        const float* from = merged + (w * kGroup + g) * (kDim + 2);
        if (from[kDim] != -INFINITY) sum += from[d] * expf(from[kDim] - top);
      }
      to[d] = sum;
    }
  }
}

template <class T>
__global__ void merge_kernel(DecodeAttentionArgs args, std::int64_t parts) {
  __shared__ float weights[kMaxParts], shared[33];
  const std::int64_t dim = args.cache.head_dim, head = blockIdx.x;
  const float* from = args.partial + head * parts * (dim + 2);
  const std::int64_t rows = part_rows(args.capacity);
  const int used = static_cast<int>((args.seen[0] + rows) / rows), part = threadIdx.x;
  const bool mine = part < used;
  const float highest = mine ? from[part * (dim + 2) + dim] : -INFINITY;
  const float top = block_max(highest, shared);
  const float weight = mine ? expf(highest - top) : 0.0f;
  if (part < kMaxParts) weights[part] = weight;
  const float total = block_sum(mine ? from[part * (dim + 2) + dim + 1] * weight : 0.0f, shared);
  for (std::int64_t d = threadIdx.x; d < dim; d += blockDim.x) {
    float sum = 0.0f;
#pragma unroll 16
    for (int p = 0; p < used; ++p) sum = fmaf(from[p * (dim + 2) + d], weights[p], sum);
    static_cast<T*>(args.out)[head * dim + d] = from_f32<T>(sum / total);
  }
}

template <class T, int kPerLane, int kGroup>
void launch_group(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const std::int64_t parts = part_count(args.capacity);
  const dim3 grid(static_cast<unsigned>(args.cache.kv_heads), static_cast<unsigned>(parts));
  constexpr int kBytes = kWarps * kGroup * (32 * kPerLane + 2) * 4;
  const auto kernel = decode_kernel<T, kPerLane, kGroup>;
  if constexpr (kBytes > 48 * 1024) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
               "decode attention's shared memory");
  }
  kernel<<<grid, 32 * kWarps, kBytes, stream>>>(args, parts);
  check_launch("decode attention");
  merge_kernel<T><<<static_cast<unsigned>(args.heads), 128, 0, stream>>>(args, parts);
  check_launch("decode attention, merging");
}

template <class T, int kPerLane>
void launch_dim(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const std::int64_t group = args.heads / args.cache.kv_heads;
  if (group == 1) return launch_group<T, kPerLane, 1>(args, stream);
  if (group <= 4) return launch_group<T, kPerLane, 4>(args, stream);
  launch_group<T, kPerLane, kMaxGroup>(args, stream);
}

template <class T>
void launch(const DecodeAttentionArgs& args, cudaStream_t stream) {
  switch (args.cache.head_dim) {
    case 32: return launch_dim<T, 1>(args, stream);
    case 64: return launch_dim<T, 2>(args, stream);
    case 96: return launch_dim<T, 3>(args, stream);
    case 128: return launch_dim<T, 4>(args, stream);
    default: return launch_dim<T, 8>(args, stream);
  }
}

}  // namespace

bool decode_attention_takes(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
  const bool known = head_dim == 32 || head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
  return known && heads / kv_heads <= kMaxGroup;
}

std::int64_t decode_scratch_bytes(std::int64_t heads, std::int64_t head_dim, std::int64_t capacity) {
  return heads * part_count(capacity) * (head_dim + 2) * 4;
}

void launch_decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream) {
  if (args.bf16) {
    launch<bf16>(args, stream);
  } else {
    launch<float>(args, stream);
  }
}

}  // namespace winnow::cuda
