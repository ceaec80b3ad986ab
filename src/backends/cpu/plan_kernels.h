// The vector loops of block planning: sums over cached rows, and the softmax of one query over pools.
#pragma once

#include <cstdint>
#include <span>

#include "backends/block_plan.h"
#include "backends/cpu/kv_layout.h"

namespace winnow::cpu {

// sums[d] = sum over rows [begin, end) of one kv head's keys (or values), for d < head_dim; `squares`
// likewise of the squared elements, unless null. `keys` and `values` point to the head's first row.
void sum_keys(const KvLayout& layout, const void* keys, std::int64_t begin, std::int64_t end, float* sums,
              float* squares);
void sum_values(const KvLayout& layout, const void* values, std::int64_t begin, std::int64_t end,
                float* sums);

// distances[r] = |key of row `first` + r - mean|^2 for the 16 rows of the key block that begins at `first`.
void key_distances(const KvLayout& layout, const void* keys, std::int64_t first, const float* mean,
                   float* distances);

// y[i] = x[i]^2, x and y of the type `dtype`.
void square(DType dtype, const void* x, std::int64_t n, void* y);

// s[i] += factor * more[i].
void add_scaled(float* s, const float* more, float factor, std::int64_t n);

// The columns of scores: [group of 16 key blocks][pool within its block][part of the pool][block of the
// group], so that vectors of one part after the other add up to a vector of blocks. A pool's first part is
// the mean of its rows without its outliers, the others are these.
struct PoolColumns {
  std::int64_t pools_per_block = 1, parts = 1;
  float log2_shares[1 + kMaxOutliers] = {0};  // [parts] log2 of the share of a pool's rows that a part is

  std::int64_t group() const { return kKeyBlock * pools_per_block * parts; }
};

// One query's scores.
struct PooledScores {
  // Both begin with the group in which what the query sees begins; pools are counted from its first one.
  float* s;          // q . key of each part, overwritten; whole groups up to that of own_pool
  float* estimates;  // of the query's block, one for each key block; whole groups
  std::int64_t first_pool, own_pool;     // the first and the last that the query sees some of
  float first_log_share, own_log_share;  // ln(rows of it that the query sees / pool); of one pool the sum
};
// Adds each query's probabilities of blocks to its estimates, or raises these to them. `scores` holds at most
// kFoldRows queries, which are taken through each pass together: more would not stay in the L1 cache, fewer
// would wait for each other's sums.
constexpr std::size_t kFoldRows = 8;
void fold_pools(std::span<const PooledScores> scores, const PoolColumns& columns, float scale,
                BlockCriterion criterion);

}  // namespace winnow::cpu
