// What the last queries pay to each row, from their logits: softmax a query, mean or maximum over
// queries, then over heads.
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 256, kColumns = 32, kWarps = kThreads / kColumns;

// NaN wins and stays: the choice of rows must see it.
__device__ float higher(float highest, float value) {
  return isnan(highest) || value <= highest ? highest : value;
}

// Maximum and reciprocal sum of each query's row of logits.
__global__ void __launch_bounds__(kThreads) stats_kernel(WindowMeansArgs args) {
  __shared__ float shared[33];
  const std::int64_t query = blockIdx.x % args.queries;
  const float* row = args.logits + blockIdx.x * args.logits_stride;
  const std::int64_t end = args.rows - args.queries + query + 1;
  const std::int64_t begin = (args.first_rows != nullptr ? args.first_rows[query] : 0) + threadIdx.x;
  float highest = -INFINITY;
  for (std::int64_t j = begin; j < end; j += kThreads) highest = fmaxf(highest, row[j]);
  highest = block_max(highest, shared);
  float sum = 0.0f;
  for (std::int64_t j = begin; j < end; j += kThreads) sum += expf((row[j] - highest) * args.scale);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) {
    args.stats[2 * blockIdx.x] = highest;
    args.stats[2 * blockIdx.x + 1] = 1.0f / sum;
  }
}

// A block takes kColumns cached rows of a head: lane i the i-th of them, each warp a part of the queries.
__global__ void __launch_bounds__(kThreads) means_kernel(WindowMeansArgs args) {
  __shared__ float found[kWarps][kColumns];
  const int lane = static_cast<int>(threadIdx.x) % kColumns, warp = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t j = blockIdx.x * std::int64_t{kColumns} + lane;
  const std::int64_t first_query = j - (args.rows - args.queries);  // that sees row j
  const auto add = [&](float sum, float share) { return args.maximum ? higher(sum, share) : sum + share; };
  float sum = 0.0f;
  if (j < args.rows) {
    const std::int64_t part = (args.queries + kWarps - 1) / kWarps;
    const std::int64_t end = min((warp + 1) * part, args.queries);
#pragma unroll 4
    for (std::int64_t i = max(warp * part, first_query); i < end; ++i) {
      if (args.first_rows != nullptr && j < args.first_rows[i]) break;  // nor do later queries see it
      const std::int64_t at = blockIdx.y * args.queries + i;
      sum = add(sum, expf((args.logits[at * args.logits_stride + j] - args.stats[2 * at]) * args.scale) *
                         args.stats[2 * at + 1]);
    }
  }
  found[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || j >= args.rows) return;
  for (int other = 1; other < kWarps; ++other) sum = add(sum, found[other][lane]);
  args.means[blockIdx.y * args.rows + j] = args.maximum ? sum : sum / static_cast<float>(args.queries);
}

// A block of threads takes a query of a head.
__global__ void pack_heads_kernel(const uint4* q, std::int64_t q_stride, const std::int32_t* heads, uint4* y,
                                  std::int64_t words) {
  const std::int64_t head = heads != nullptr ? heads[blockIdx.y] : blockIdx.y;
  const uint4* from = q + blockIdx.x * q_stride + head * words;
  uint4* to = y + (blockIdx.y * std::int64_t{gridDim.x} + blockIdx.x) * words;
  for (std::int64_t i = threadIdx.x; i < words; i += blockDim.x) to[i] = from[i];
}

__global__ void __launch_bounds__(kThreads)
    reduce_heads_kernel(const float* means, float* scores, std::int64_t heads, std::int64_t rows, bool mean) {
  const std::int64_t j = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (j >= rows) return;
  float result = 0.0f;
  for (std::int64_t h = 0; h < heads; ++h) {
    const float value = means[h * rows + j];
    result = mean ? result + value : higher(result, value);
  }
  scores[j] = mean ? result / static_cast<float>(heads) : result;
}

unsigned blocks_for(std::int64_t rows, int of_block) {
  return static_cast<unsigned>((rows + of_block - 1) / of_block);
}

}  // namespace

void launch_pack_heads(const void* q, std::int64_t q_stride, const std::int32_t* heads, void* y,
                       std::int64_t count, std::int64_t queries, std::int64_t head_dim, cudaStream_t stream) {
  constexpr std::int64_t kWord = 8;  // elements
  const dim3 blocks(static_cast<unsigned>(queries), static_cast<unsigned>(count));
  pack_heads_kernel<<<blocks, 32, 0, stream>>>(static_cast<const uint4*>(q), q_stride / kWord, heads,
                                               static_cast<uint4*>(y), head_dim / kWord);
  check_launch("packed queries");
}

void launch_window_means(const WindowMeansArgs& args, cudaStream_t stream) {
  stats_kernel<<<static_cast<unsigned>(args.heads * args.queries), kThreads, 0, stream>>>(args);
  check_launch("window statistics");
  means_kernel<<<dim3(blocks_for(args.rows, kColumns), static_cast<unsigned>(args.heads)), kThreads, 0,
                 stream>>>(args);
  check_launch("window means");
}

void launch_reduce_heads(const float* means, float* scores, std::int64_t heads, std::int64_t rows, bool mean,
                         cudaStream_t stream) {
  reduce_heads_kernel<<<blocks_for(rows, kThreads), kThreads, 0, stream>>>(means, scores, heads, rows, mean);
  check_launch("window scores");
}

}  // namespace winnow::cuda
