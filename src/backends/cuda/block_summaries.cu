// What stands for a block's keys while blocks are chosen: pooled keys with their outliers, strided keys; and
// the means of mean correction.
#include "backends/cuda/block_scores.h"
#include "backends/cuda/device.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kWarps = 8;

struct KeyArgs {
  const void* k;
  std::int64_t row_stride, head_stride;
  int rows, dim, kv_heads;
  ScoreShape shape;
  int outliers, stride;
  bool variance;
};

// Where part `part` of a key block is in the summary of a kv head.
__device__ std::int64_t summary_row(const ScoreShape& shape, std::int64_t block, std::int64_t part) {
  return (block / kBlockGroup * shape.parts + part) * kBlockGroup + block % kBlockGroup;
}

// The rows of a pool farthest from its mean, farthest first, the earlier of equal ones.
struct Farthest {
  float distances[kMaxOutliers];
  int rows[kMaxOutliers];
  int found = 0;
  __device__ void offer(float distance, int row, int wanted) {
    int at = found;
    while (at > 0 && distances[at - 1] < distance) --at;
    if (at == wanted) return;
    found = min(found + 1, wanted);
    for (int i = found - 1; i > at; --i) {
      distances[i] = distances[i - 1];
      rows[i] = rows[i - 1];
    }
    distances[at] = distance;
    rows[at] = row;
  }
};

// kCount consecutive elements, loaded together. head_dim is a multiple of 8 or kCount is 1.
template <int kCount, class T>
__device__ __forceinline__ void load_many(const T* from, float (&to)[kCount]) {
  struct alignas(kCount * sizeof(T) > 16 ? 16 : kCount * sizeof(T)) Pack {
    T values[kCount];
  };
  const Pack pack = *reinterpret_cast<const Pack*>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = to_f32(pack.values[i]);
}

// A warp for each pool; lane i holds dimensions kOwn i and the next, and so on in steps of 32 kOwn. Pools
// past the cache's end become zeros.
template <class T, int kOwn, int kRounds>
__global__ void pool_keys(KeyArgs a, T* summary) {
  const ScoreShape& shape = a.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32,
                     kv_head = blockIdx.y;
  const std::int64_t block = index / shape.pools, pool = index % shape.pools;
  if (block >= shape.stride()) return;
  const int first = static_cast<int>(index * shape.pool),
            past = min(first + static_cast<int>(shape.pool), a.rows);
  const T* keys = static_cast<const T*>(a.k) + kv_head * a.head_stride;
  const std::int64_t head_rows = kv_head * shape.summary_rows();
  T* heads = summary + head_rows * shape.row_elements;
  T* variances = summary + (a.kv_heads * shape.summary_rows() + head_rows) * shape.row_elements;
  const auto row_of = [&](T* base, std::int64_t part) {
    return base + summary_row(shape, block, part * shape.pools + pool) * shape.row_elements;
  };
  const auto load_row = [&](int row, float(&to)[kRounds][kOwn]) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int d = (round * 32 + lane) * kOwn;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) to[round][i] = 0;
      if (d < a.dim) load_many<kOwn>(keys + row * a.row_stride + d, to[round]);
    }
  };
  float sums[kRounds][kOwn] = {}, mean[kRounds][kOwn], spread[kRounds][kOwn] = {}, key[kRounds][kOwn];
#pragma unroll 8
  for (int row = first; row < past; ++row) {
    load_row(row, key);
#pragma unroll
    for (int i = 0; i < kRounds * kOwn; ++i) sums[i / kOwn][i % kOwn] += key[i / kOwn][i % kOwn];
  }
  const float share = past > first ? 1.0f / static_cast<float>(past - first) : 0.0f;
#pragma unroll
  for (int i = 0; i < kRounds * kOwn; ++i) mean[i / kOwn][i % kOwn] = sums[i / kOwn][i % kOwn] * share;
  const bool full = past - first == shape.pool;
  Farthest farthest;
  if ((a.outliers > 0 && full) || a.variance) {
#pragma unroll 4
    for (int row = first; row < past; ++row) {
      load_row(row, key);
      float distance = 0;
#pragma unroll
      for (int i = 0; i < kRounds * kOwn; ++i) {
        if ((i / kOwn * 32 + lane) * kOwn >= a.dim) continue;
        const float off = key[i / kOwn][i % kOwn] - mean[i / kOwn][i % kOwn];
        spread[i / kOwn][i % kOwn] = fmaf(off, off, spread[i / kOwn][i % kOwn]);
        distance = fmaf(off, off, distance);
      }
      if (a.outliers > 0) farthest.offer(warp_sum(distance), row, a.outliers);
    }
  }
  const int taken = full ? a.outliers : 0;
  const float rest_share = past > first ? 1.0f / static_cast<float>(past - first - taken) : 0.0f;
  const auto store_row = [&](T* to, const float(&values)[kRounds][kOwn], float scale) {
#pragma unroll
    for (int i = 0; i < kRounds * kOwn; ++i) {
      const int d = (i / kOwn * 32 + lane) * kOwn + i % kOwn;
      if (d < shape.row_elements) to[d] = from_f32<T>(values[i / kOwn][i % kOwn] * scale);
    }
  };
  for (int part = 1; part <= a.outliers; ++part) {
    if (taken == 0) {
      store_row(row_of(heads, part), mean, 1);
      continue;
    }
    load_row(farthest.rows[part - 1], key);
    store_row(row_of(heads, part), key, 1);
#pragma unroll
    for (int i = 0; i < kRounds * kOwn; ++i) sums[i / kOwn][i % kOwn] -= key[i / kOwn][i % kOwn];
  }
  store_row(row_of(heads, 0), sums, rest_share);
  if (a.variance) store_row(row_of(variances, 0), spread, share);
}

template <class T>
void launch_pool_keys(const KeyArgs& args, T* summary, cudaStream_t stream) {
  const auto pools = static_cast<unsigned>(args.shape.stride() * args.shape.pools);
  const dim3 grid((pools + kWarps - 1) / kWarps, static_cast<unsigned>(args.kv_heads));
  if (args.dim % 8 != 0) {
    pool_keys<T, 1, 16><<<grid, kWarps * 32, 0, stream>>>(args, summary);
  } else if (args.dim <= 128) {
    pool_keys<T, 4, 1><<<grid, kWarps * 32, 0, stream>>>(args, summary);
  } else {
    pool_keys<T, 4, 4><<<grid, kWarps * 32, 0, stream>>>(args, summary);
  }
}

// `stride` consecutive rows side by side.
template <class T>
__global__ void stride_keys(KeyArgs a, T* summary) {
  const ScoreShape& shape = a.shape;
  const std::int64_t index = blockIdx.x, kv_head = blockIdx.y, block = index / shape.pools;
  const T* keys = static_cast<const T*>(a.k) + kv_head * a.head_stride;
  T* to = summary + (kv_head * shape.summary_rows() + summary_row(shape, block, index % shape.pools)) *
                        shape.row_elements;
  for (std::int64_t i = threadIdx.x; i < shape.row_elements; i += blockDim.x) {
    const std::int64_t row = index * a.stride + i / a.dim;
    const bool exists = i / a.dim < a.stride && row < a.rows;
    to[i] = from_f32<T>(exists ? to_f32(keys[row * a.row_stride + i % a.dim]) : 0.0f);
  }
}

template <class T>
__global__ void average(const T* from, std::int64_t row_stride, std::int64_t head_stride, int k_block,
                        int dim, T* to) {
  const T* rows =
      from + blockIdx.y * head_stride + static_cast<std::int64_t>(blockIdx.x) * k_block * row_stride;
  T* mean = to + (static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * dim;
  for (int d = static_cast<int>(threadIdx.x); d < dim; d += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int row = 0; row < k_block; ++row) sum += to_f32(rows[row * row_stride + d]);
    mean[d] = from_f32<T>(sum / static_cast<float>(k_block));
  }
}

template <class T>
void summarise(const PlanningParams& p, T* summary, cudaStream_t stream) {
  const bool strided = p.rule.estimator == BlockEstimator::kAntidiagonal;
  const bool pooled = p.rule.estimator == BlockEstimator::kPooled;
  const KeyArgs args{.k = p.k,
                     .row_stride = p.kv_row_stride,
                     .head_stride = p.kv_head_stride,
                     .rows = static_cast<int>(p.kv_rows),
                     .dim = static_cast<int>(p.head_dim),
                     .kv_heads = static_cast<int>(p.kv_heads),
                     .shape = score_shape(p, 1),
                     .outliers = pooled ? static_cast<int>(p.rule.outliers) : 0,
                     .stride = static_cast<int>(p.rule.stride),
                     .variance = pooled && p.rule.variance};
  if (strided) {
    const dim3 grid(static_cast<unsigned>(args.shape.stride() * args.shape.pools),
                    static_cast<unsigned>(p.kv_heads));
    stride_keys<T><<<grid, 256, 0, stream>>>(args, summary);
  } else {
    launch_pool_keys(args, summary, stream);
  }
  check_cuda(cudaGetLastError(), "key summaries");
}

template <class T>
void average_all(const PlanningParams& p, const void* from, void* to, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.kv_rows / p.rule.k_block), static_cast<unsigned>(p.kv_heads));
  if (grid.x == 0) return;
  average<T><<<grid, 128, 0, stream>>>(static_cast<const T*>(from), p.kv_row_stride, p.kv_head_stride,
                                       static_cast<int>(p.rule.k_block), static_cast<int>(p.head_dim),
                                       static_cast<T*>(to));
  check_cuda(cudaGetLastError(), "block means");
}

}  // namespace

void summarise_keys(const PlanningParams& params, void* summary, cudaStream_t stream) {
  if (params.rule.estimator == BlockEstimator::kVerticalSlash) return find_stripes(params, summary, stream);
  if (!has_estimates(params.rule)) return;
  if (params.dtype == DType::kF32) {
    summarise(params, static_cast<float*>(summary), stream);
  } else {
    summarise(params, static_cast<__nv_bfloat16*>(summary), stream);
  }
}

void average_blocks(const PlanningParams& p, void* mean_k, void* mean_v, cudaStream_t stream) {
  if (p.dtype == DType::kF32) {
    average_all<float>(p, p.k, mean_k, stream);
    average_all<float>(p, p.v, mean_v, stream);
  } else {
    average_all<__nv_bfloat16>(p, p.k, mean_k, stream);
    average_all<__nv_bfloat16>(p, p.v, mean_v, stream);
  }
}

}  // namespace winnow::cuda
