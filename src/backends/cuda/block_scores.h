// What block planning keeps between its kernels. For the block_*.cu of this folder only.
//
// Key summaries: every key block is stood for by `parts` rows. Rows are in groups of 8 blocks,
// [group][part][8 blocks], so that a thread of a tensor-core accumulator holds all columns of its blocks
// (hopper_wgmma.cuh). Part i * pools + j is of the block's pool j: its mean without the outliers (i = 0), or
// outlier i. Scores: [heads, query blocks, samples] rows of `stride` floats, one a key block: log2 of what a
// sample (an asked query) gives the block, up to a constant of the sample. Blocks the sample does not see are
// -inf.
#pragma once

#include "backends/cuda/block_planning.h"

namespace winnow::cuda {

constexpr std::int64_t kBlockGroup = 8;

struct ScoreShape {
  std::int64_t pool = 1, pools = 1, parts = 1;  // rows of a pool, pools of a block, summary rows of a block
  std::int64_t groups = 0;                      // of 8 key blocks
  std::int64_t row_elements = 0;                // of a summary row: head_dim (times stride), padded to 64
  std::int64_t samples = 0;                     // asked of a full query block
  std::int64_t key_blocks = 0, query_blocks = 0;
  constexpr std::int64_t summary_rows() const { return groups * kBlockGroup * parts; }  // of a kv head
  constexpr std::int64_t stride() const { return groups * kBlockGroup; }  // floats of a score row
};
ScoreShape score_shape(const PlanningParams& params, std::int64_t queries);

// Whether estimates are made at all: not for kNone and kVerticalSlash.
bool has_estimates(const BlockRule& rule);

struct ScoreParams {
  PlanningParams planning;
  ScoreShape shape;
  PlanningQueries queries;
  const void* summary = nullptr;
  float* scores = nullptr;
  void* packed = nullptr;  // packed_samples_bytes()
};
std::int64_t packed_samples_bytes(const PlanningParams& plan, const ScoreShape& shape);
bool scores_on_tensor_cores(const ScoreParams& params);
void score_blocks_hopper(const ScoreParams& params, cudaStream_t stream);
void score_blocks_plain(const ScoreParams& params, cudaStream_t stream);

// kVerticalSlash: for each head the blocks that hold a chosen column, [heads, words], and for each distance
// how many chosen ones lie below it, [heads, kv_rows + 1].
struct Stripes {
  std::uint32_t* column_blocks;
  std::int32_t* diagonals_below;
  float* values;  // [2, kv_rows] of the head being worked on, and [last_queries, kv_rows] probabilities
};
Stripes stripes_of(const PlanningParams& params, void* summary);
std::int64_t stripe_bytes(const PlanningParams& params);
void find_stripes(const PlanningParams& params, void* summary, cudaStream_t stream);

#ifdef __CUDACC__
// The i-th asked query of a block of `count`, as next_asked() steps: the last asked is the last of the block.
__device__ __forceinline__ int asked_query(int i, int query_stride, int count) {
  const int query = i * query_stride;
  return query < count - 1 ? query : count - 1;
}
// Every how many-th query is asked: antidiagonals take `stride` queries at once.
__host__ __device__ inline std::int64_t asked_count(std::int64_t queries, std::int64_t query_stride) {
  return queries <= 1 ? queries : (queries - 2) / query_stride + 2;
}
#endif

}  // namespace winnow::cuda
