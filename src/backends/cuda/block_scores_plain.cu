// Scores of key blocks by every estimator, for both element types: a block of threads for each sample, a key
// block a thread. What float32 models, variances and single probabilities run with.
#include "backends/cuda/block_scores.h"
#include "backends/cuda/device.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 128;

// A sum of powers of 2 of which only the logarithm fits a float.
struct LogSum {
  float largest = -INFINITY, sum = 0;
  __device__ void add(float x, float count = 1) {
    if (x == -INFINITY) return;
    if (x > largest) {
      sum *= exp2f(largest - x);
      largest = x;
    }
    sum += count * exp2f(x - largest);
  }
  __device__ float log() const { return sum > 0 ? largest + log2f(sum) : -INFINITY; }
};

__device__ float block_log_sum(LogSum own) {
  __shared__ float largest[kThreads / 32], sums[kThreads / 32];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const float highest = warp_max(own.largest);
  const float sum = warp_sum(own.sum > 0 ? own.sum * exp2f(own.largest - highest) : 0.0f);
  if (threadIdx.x % 32 == 0) {
    largest[warp] = highest;
    sums[warp] = sum;
  }
  __syncthreads();
  LogSum all;
  for (int i = 0; i < kThreads / 32; ++i) all.add(largest[i], sums[i]);
  return all.log();
}

template <class T>
struct Sampler {
  const ScoreParams& p;
  const float* q;
  int row;  // the last cache row the sample sees
  float scale_log2;

  // log2 of what part `part` of a block adds, its weight included.
  __device__ float part(const T* summary, const T* variances, std::int64_t block, std::int64_t part) const {
    const ScoreShape& shape = p.shape;
    const BlockRule& rule = p.planning.rule;
    const std::int64_t first = (block * shape.pools + part % shape.pools) * shape.pool;
    if (first > row) return -INFINITY;
    const std::int64_t at =
        ((block / kBlockGroup * shape.parts + part) * kBlockGroup + block % kBlockGroup) * shape.row_elements;
    const bool strided = rule.estimator == BlockEstimator::kAntidiagonal;
    const std::int64_t count = strided ? rule.stride * p.planning.head_dim : p.planning.head_dim;
    float dot = 0, square = 0;
    for (std::int64_t d = 0; d < count; ++d) {
      dot = fmaf(q[d], to_f32(summary[at + d]), dot);
      if (variances != nullptr) square = fmaf(q[d] * q[d], to_f32(variances[at + d]), square);
    }
    float x = dot * scale_log2 + 0.5f * p.planning.scale * scale_log2 * square;
    if (rule.estimator != BlockEstimator::kPooled) return x;
    const auto seen = static_cast<float>(min(shape.pool, row + 1 - first)),
               pool = static_cast<float>(shape.pool);
    const float share = part < shape.pools ? (pool - static_cast<float>(rule.outliers)) / pool : 1 / pool;
    return x + log2f(share * seen);
  }
};

template <class T>
__global__ void score(ScoreParams p) {
  extern __shared__ float q[];
  const PlanningParams& plan = p.planning;
  const BlockRule& rule = plan.rule;
  const int head = static_cast<int>(blockIdx.z), block = static_cast<int>(blockIdx.y),
            i = static_cast<int>(blockIdx.x);
  const int first = block * static_cast<int>(rule.q_block);
  const int count = min(static_cast<int>(rule.q_block), static_cast<int>(p.queries.queries) - first);
  const bool strided = rule.estimator == BlockEstimator::kAntidiagonal;
  const int asks_every = rule.estimator == BlockEstimator::kPooled ? static_cast<int>(rule.query_stride) : 1;
  const int stride = static_cast<int>(rule.stride), dim = static_cast<int>(plan.head_dim);
  if (strided ? i * stride >= count : i >= asked_count(count, asks_every)) return;

  const T* rows = static_cast<const T*>(p.queries.q) + head * dim;
  const int query = first + (strided ? i * stride : asked_query(i, asks_every, count));
  if (strided) {  // row r of a stride meets query stride - 1 - r
    for (int d = static_cast<int>(threadIdx.x); d < stride * dim; d += kThreads) {
      const int from = query + stride - 1 - d / dim;
      q[d] = from < first + count ? to_f32(rows[from * p.queries.q_row_stride + d % dim]) : 0.0f;
    }
  } else {
    for (int d = static_cast<int>(threadIdx.x); d < dim; d += kThreads) {
      q[d] = to_f32(rows[query * p.queries.q_row_stride + d]);
    }
  }
  __syncthreads();
  const int last = strided ? min(query + stride, first + count) - 1 : query;
  const auto row = static_cast<int>(p.queries.query_rows != nullptr ? p.queries.query_rows[last]
                                                                    : p.queries.first_row + last);
  const float scale_log2 = plan.scale * 1.44269504f / (strided ? static_cast<float>(stride) : 1.0f);
  const Sampler<T> sampler{p, q, row, scale_log2};

  const std::int64_t kv_head = head / (plan.heads / plan.kv_heads),
                     head_rows = kv_head * p.shape.summary_rows();
  const T* summary = static_cast<const T*>(p.summary) + head_rows * p.shape.row_elements;
  const T* variances = rule.estimator == BlockEstimator::kPooled && rule.variance
                           ? summary + plan.kv_heads * p.shape.summary_rows() * p.shape.row_elements
                           : nullptr;
  float* out =
      p.scores + ((static_cast<std::int64_t>(head) * p.shape.query_blocks + block) * p.shape.samples + i) *
                     p.shape.stride();
  const bool single = rule.estimator == BlockEstimator::kExact && rule.criterion == BlockCriterion::kMaximum;
  LogSum total;
  for (std::int64_t j = threadIdx.x; j < p.shape.stride(); j += kThreads) {
    LogSum sum;
    float largest = -INFINITY;
    for (std::int64_t part = 0; part < p.shape.parts; ++part) {
      const float x = sampler.part(summary, variances, j, part);
      sum.add(x);
      largest = fmaxf(largest, x);
    }
    out[j] = single ? largest : sum.log();
    total.add(sum.largest, sum.sum);
  }
  if (!single) return;
  const float all = block_log_sum(total);  // the largest probability of a block, whole already
  for (std::int64_t j = threadIdx.x; j < p.shape.stride(); j += kThreads) out[j] -= all;
}

}  // namespace

void score_blocks_plain(const ScoreParams& p, cudaStream_t stream) {
  const bool strided = p.planning.rule.estimator == BlockEstimator::kAntidiagonal;
  const std::int64_t elements = p.planning.head_dim * (strided ? p.planning.rule.stride : 1);
  const dim3 grid(static_cast<unsigned>(p.shape.samples), static_cast<unsigned>(p.shape.query_blocks),
                  static_cast<unsigned>(p.planning.heads));
  const auto bytes = static_cast<unsigned>(elements * 4);
  const bool f32 = p.planning.dtype == DType::kF32;
  const auto kernel = f32 ? score<float> : score<__nv_bfloat16>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 128 << 10),
             "plain block scores");
  kernel<<<grid, kThreads, bytes, stream>>>(p);
  check_cuda(cudaGetLastError(), "plain block scores");
}

}  // namespace winnow::cuda
