// BlockEstimator::kVerticalSlash: which cache rows (columns) and distances from query to key (diagonals) the
// turn's last queries attend to. Once a layer, one head after the other.
#include "backends/cuda/block_scores.h"
#include "backends/cuda/device.h"
#include "backends/cuda/mass_cut.cuh"
#include "backends/cuda/numeric.cuh"
#include "core/check.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 128, kChoiceThreads = 1024, kTile = 16, kMaxQueries = 64;

struct StripeArgs {
  const void* q;  // of the head: rows of [head_dim], q_stride apart
  std::int64_t q_stride;
  const void* k;  // of its kv head
  std::int64_t k_stride;
  int queries, rows, dim;
  float scale_log2;
  float* logits;  // [queries, rows]
  float* sums;    // [queries] log2 of what the powers of a row add up to
  float* values;  // [2, rows]
  bool largest;   // of the queries, not their mean
  const float* threshold;
  int k_block, words;
  std::uint32_t* column_blocks;
  std::int32_t* diagonals_below;
};

// A thread for each cache row, kTile queries at a time; behind a query's own row -inf.
template <class T>
__global__ void last_logits(StripeArgs a) {
  extern __shared__ float q[];  // [kTile, dim]
  const int row = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int first = static_cast<int>(blockIdx.y) * kTile;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * a.dim; i += kThreads) {
    const int query = min(first + i / a.dim, a.queries - 1);
    q[i] = to_f32(static_cast<const T*>(a.q)[query * a.q_stride + i % a.dim]);
  }
  __syncthreads();
  if (row >= a.rows) return;
  float dots[kTile] = {};
  const T* key = static_cast<const T*>(a.k) + row * a.k_stride;
  for (int d = 0; d < a.dim; ++d) {
    const float x = to_f32(key[d]);
#pragma unroll
    for (int i = 0; i < kTile; ++i) dots[i] = fmaf(q[i * a.dim + d], x, dots[i]);
  }
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    const int query = first + i;
    if (query >= a.queries) break;
    const bool sees = row <= a.rows - a.queries + query;
    a.logits[static_cast<std::int64_t>(query) * a.rows + row] = sees ? dots[i] * a.scale_log2 : -INFINITY;
  }
}

// A block for each query.
__global__ void sum_powers(StripeArgs a) {
  __shared__ float largest[kChoiceThreads / 32];
  const float* logits = a.logits + static_cast<std::int64_t>(blockIdx.x) * a.rows;
  float highest = -INFINITY;
  for (int row = static_cast<int>(threadIdx.x); row < a.rows; row += kChoiceThreads)
    highest = fmaxf(highest, logits[row]);
  highest = warp_max(highest);
  if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = highest;
  __syncthreads();
  for (const float x : largest) highest = fmaxf(highest, x);
  double sum = 0;
  for (int row = static_cast<int>(threadIdx.x); row < a.rows; row += kChoiceThreads) {
    sum += static_cast<double>(exp2f(logits[row] - highest));
  }
  sum = block_sum<kChoiceThreads>(sum);
  if (threadIdx.x == 0) a.sums[blockIdx.x] = highest + log2f(static_cast<float>(sum));
}

// values[0][c]: what cache row c gets; values[1][i]: what distance rows - 1 - i gets.
__global__ void fold_stripes(StripeArgs a) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= a.rows) return;
  float column = 0, diagonal = 0;
  const float share = a.largest ? 1.0f : 1.0f / static_cast<float>(a.queries);
  for (int query = 0; query < a.queries; ++query) {
    const float* logits = a.logits + static_cast<std::int64_t>(query) * a.rows;
    const int shifted = i - (a.queries - 1 - query);  // the row at this distance from the query
    const float p = exp2f(logits[i] - a.sums[query]) * share;
    const float at_distance = shifted >= 0 ? exp2f(logits[shifted] - a.sums[query]) * share : 0;
    column = a.largest ? fmaxf(column, p) : column + p;
    diagonal = a.largest ? fmaxf(diagonal, at_distance) : diagonal + at_distance;
  }
  a.values[i] = column;
  a.values[a.rows + i] = diagonal;
}

__device__ Cut cut_values(const StripeArgs& a, const float* values) {
  if (a.largest) return {*a.threshold, 0};
  double total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < a.rows; i += kChoiceThreads)
    total += static_cast<double>(values[i]);
  total = block_sum<kChoiceThreads>(total);
  return cut_mass<kChoiceThreads>([=](int i) { return values[i]; }, a.rows, total, 0, *a.threshold);
}

// Block 0: columns, block 1: diagonals.
__global__ void __launch_bounds__(kChoiceThreads) choose_stripes(StripeArgs a) {
  const int thread = static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0) {
    const Cut cut = cut_values(a, a.values);
    for (int i = thread; i < a.words; i += kChoiceThreads) a.column_blocks[i] = 0;
    __syncthreads();
    for (int row = thread; row < a.rows; row += kChoiceThreads) {
      const int block = row / a.k_block;
      if (cut.takes(a.values[row], row)) atomicOr(&a.column_blocks[block / 32], 1u << (block % 32));
    }
    return;
  }
  const float* values = a.values + a.rows;
  const Cut cut = cut_values(a, values);
  // Every thread counts a run of distances, the nearest first.
  __shared__ int counts[kChoiceThreads];
  const int run = (a.rows + kChoiceThreads - 1) / kChoiceThreads, begin = min(thread * run, a.rows);
  const int end = min(begin + run, a.rows);
  const auto chosen = [&](int distance) {
    return cut.takes(values[a.rows - 1 - distance], a.rows - 1 - distance);
  };
  int own = 0;
  for (int distance = begin; distance < end; ++distance) own += chosen(distance) ? 1 : 0;
  counts[thread] = own;
  __syncthreads();
  int before = 0;
  for (int i = 0; i < thread; ++i) before += counts[i];
  for (int distance = begin; distance < end; ++distance) {
    a.diagonals_below[distance] = before;
    before += chosen(distance) ? 1 : 0;
  }
  if (end == a.rows && begin < end) a.diagonals_below[a.rows] = before;
}

std::int64_t round_up(std::int64_t n) { return (n + 255) / 256 * 256; }

}  // namespace

std::int64_t stripe_bytes(const PlanningParams& p) {
  const std::int64_t words = plan_words(p.kv_rows, p.rule.k_block);
  return round_up(p.heads * words * 4) + round_up(p.heads * (p.kv_rows + 1) * 4) +
         round_up((kMaxQueries + (2 + p.last_queries) * p.kv_rows) * 4);
}

Stripes stripes_of(const PlanningParams& p, void* summary) {
  const std::int64_t words = plan_words(p.kv_rows, p.rule.k_block);
  char* at = static_cast<char*>(summary);
  Stripes stripes;
  stripes.column_blocks = reinterpret_cast<std::uint32_t*>(at);
  at += round_up(p.heads * words * 4);
  stripes.diagonals_below = reinterpret_cast<std::int32_t*>(at);
  at += round_up(p.heads * (p.kv_rows + 1) * 4);
  stripes.values = reinterpret_cast<float*>(at);
  return stripes;
}

void find_stripes(const PlanningParams& p, void* summary, cudaStream_t stream) {
  check(p.last_queries > 0 && p.last_queries <= kMaxQueries && p.last_queries <= p.kv_rows,
        "planning: vertical_slash needs 1 to 64 last queries");
  const Stripes stripes = stripes_of(p, summary);
  const std::int64_t words = plan_words(p.kv_rows, p.rule.k_block), bytes = dtype_bytes(p.dtype, 1);
  const auto rows = static_cast<unsigned>(p.kv_rows), queries = static_cast<unsigned>(p.last_queries);
  for (std::int64_t head = 0; head < p.heads; ++head) {
    StripeArgs a{};
    a.q = static_cast<const char*>(p.last_q) + head * p.head_dim * bytes;
    a.q_stride = p.last_q_row_stride;
    a.k = static_cast<const char*>(p.k) + head / (p.heads / p.kv_heads) * p.kv_head_stride * bytes;
    a.k_stride = p.kv_row_stride;
    a.queries = static_cast<int>(queries);
    a.rows = static_cast<int>(rows);
    a.dim = static_cast<int>(p.head_dim);
    a.scale_log2 = p.scale * 1.44269504f;
    a.sums = stripes.values;
    a.values = a.sums + kMaxQueries;
    a.logits = a.values + 2 * p.kv_rows;
    a.largest = p.rule.criterion == BlockCriterion::kMaximum;
    a.threshold = p.thresholds + head;
    a.k_block = static_cast<int>(p.rule.k_block);
    a.words = static_cast<int>(words);
    a.column_blocks = stripes.column_blocks + head * words;
    a.diagonals_below = stripes.diagonals_below + head * (p.kv_rows + 1);
    const dim3 grid((rows + kThreads - 1) / kThreads, (queries + kTile - 1) / kTile);
    const auto shared = static_cast<unsigned>(kTile * p.head_dim * 4);
    if (p.dtype == DType::kF32) {
      last_logits<float><<<grid, kThreads, shared, stream>>>(a);
    } else {
      last_logits<__nv_bfloat16><<<grid, kThreads, shared, stream>>>(a);
    }
    sum_powers<<<queries, kChoiceThreads, 0, stream>>>(a);
    fold_stripes<<<(rows + 255) / 256, 256, 0, stream>>>(a);
    choose_stripes<<<2, kChoiceThreads, 0, stream>>>(a);
  }
  check_cuda(cudaGetLastError(), "stripes");
}

}  // namespace winnow::cuda
