// attend_blocks() for every shape and both element types: a warp for each (query, head), one key a lane. What
// float32 models run with, and what the tensor-core kernel is tested against.
#include <cuda_bf16.h>

#include "backends/cuda/device.h"
#include "backends/cuda/sparse_attention.h"
#include "core/check.h"

namespace winnow::cuda {
namespace {

constexpr int kWarps = 4, kMaxHeadDim = 512, kAll = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void set(float& to, float x) { to = x; }
__device__ __forceinline__ void set(__nv_bfloat16& to, float x) { to = __float2bfloat16(x); }

// The online softmax of one query; lane i holds dimensions i, i + 32, ...
template <class T>
class QueryState {
 public:
  __device__ QueryState(const float* q, int dim, float scale)
      : q_(q), dim_(dim), lane_(static_cast<int>(threadIdx.x) % 32), scale_(scale) {}

  // This lane's key, if it has one, with `bias` on its logit; `k` and `v` are its rows.
  __device__ void add(bool has_key, const T* k, const T* v, float bias) {
    float logit = -INFINITY;
    if (has_key) {
      float dot = 0;
      for (int d = 0; d < dim_; ++d) dot = fmaf(q_[d], to_float(k[d]), dot);
      logit = fmaf(dot, scale_, bias);
    }
    float highest = fmaxf(logit, largest_);
    for (int step = 16; step > 0; step /= 2)
      highest = fmaxf(highest, __shfl_xor_sync(kWholeWarp, highest, step));
    if (highest == -INFINITY) return;
    const float rescale = expf(largest_ - highest), p = expf(logit - highest);
    largest_ = highest;
    sum_ = sum_ * rescale + p;  // of this lane's keys
    for (int i = 0; i < kMaxHeadDim / 32; ++i) out_[i] *= rescale;
    for (int other = 0; other < kAll; ++other) {
      const float weight = __shfl_sync(kWholeWarp, p, other);
      const T* row =
          reinterpret_cast<const T*>(__shfl_sync(kWholeWarp, reinterpret_cast<unsigned long long>(v), other));
      if (weight == 0) continue;
#pragma unroll
      for (int i = 0; i < kMaxHeadDim / 32; ++i) {
        const int d = lane_ + 32 * i;
        if (d < dim_) out_[i] = fmaf(weight, to_float(row[d]), out_[i]);
      }
    }
  }
  __device__ void store(T* out) {
    float total = sum_;
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(kWholeWarp, total, step);
    const float share = total > 0 ? 1 / total : 0;
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / 32; ++i) {
      const int d = lane_ + 32 * i;
      if (d < dim_) set(out[d], out_[i] * share);
    }
  }

 private:
  const float* q_;
  int dim_, lane_;
  float scale_, largest_ = -INFINITY, sum_ = 0, out_[kMaxHeadDim / 32] = {};
};

template <class T>
__global__ void attend(BlockAttentionParams p) {
  __shared__ float queries[kWarps][kMaxHeadDim];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  if (index >= p.queries * p.heads) return;
  const std::int64_t query = index / p.heads, head = index % p.heads, dim = p.head_dim;
  const std::int64_t kv_offset = head / (p.heads / p.kv_heads) * p.kv_head_stride;
  const T* q = static_cast<const T*>(p.q) + query * p.q_row_stride + head * dim;
  const T* k = static_cast<const T*>(p.k) + kv_offset;
  const T* v = static_cast<const T*>(p.v) + kv_offset;
  for (std::int64_t d = lane; d < dim; d += 32) queries[warp][d] = to_float(q[d]);
  __syncwarp();
  QueryState<T> state(queries[warp], static_cast<int>(dim), p.scale);

  const DevicePlan& plan = p.plan;
  const auto row_of = [&](std::int64_t i) {
    return p.query_rows != nullptr ? p.query_rows[i] : p.first_row + i;
  };
  const std::int64_t block_row = query / plan.q_block, own_row = row_of(query);
  const std::uint32_t* listed =
      plan.listed == nullptr
          ? nullptr
          : plan.listed + (head / (p.heads / plan.heads) * plan.query_blocks + block_row) * plan.words;
  for (std::int64_t block = 0; block * plan.k_block <= own_row; ++block) {
    if (listed != nullptr && (listed[block / 32] >> (block % 32) & 1) == 0) continue;
    const std::int64_t end = min((block + 1) * plan.k_block, own_row + 1);
    for (std::int64_t begin = block * plan.k_block; begin < end; begin += 32) {
      const std::int64_t row = begin + lane;
      const bool has_key = row < end;
      state.add(has_key, k + row * p.kv_row_stride, v + row * p.kv_row_stride, 0);
    }
  }
  if (plan.mean_k != nullptr) {
    const std::int64_t first = row_of(block_row * plan.q_block),
                       offset = head / (p.heads / p.kv_heads) * plan.mean_head_stride;
    const std::int64_t blocks = min(plan.means, first / plan.k_block);
    for (std::int64_t begin = 0; begin < blocks; begin += 32) {
      const std::int64_t block = begin + lane, row = offset + block * dim;
      const bool has_key = block < blocks && (listed[begin / 32] >> lane & 1) == 0;
      state.add(has_key, static_cast<const T*>(plan.mean_k) + row, static_cast<const T*>(plan.mean_v) + row,
                logf(static_cast<float>(plan.k_block)));
    }
  }
  state.store(static_cast<T*>(p.out) + query * p.out_row_stride + head * dim);
}

}  // namespace

void attend_blocks_plain(const BlockAttentionParams& p, cudaStream_t stream) {
  check(p.head_dim <= kMaxHeadDim, "block attention: head_dim is at most 512");
  if (p.queries == 0) return;
  const auto blocks = static_cast<unsigned>((p.queries * p.heads + kWarps - 1) / kWarps);
  if (p.dtype == DType::kF32) {
    attend<float><<<blocks, kWarps * 32, 0, stream>>>(p);
  } else {
    attend<__nv_bfloat16><<<blocks, kWarps * 32, 0, stream>>>(p);
  }
  check_cuda(cudaGetLastError(), "block attention");
}

}  // namespace winnow::cuda
