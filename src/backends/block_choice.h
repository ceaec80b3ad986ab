// From estimates to listed blocks: what the planners of all backends share. A planner estimates what its
// blocks are worth; which of them are listed is decided here.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/block_plan.h"

namespace winnow {

// A set of key blocks: block j is bit j % 64 of word j / 64.
using BlockSet = std::span<std::uint64_t>;

inline bool contains(std::span<const std::uint64_t> set, std::int64_t block) {
  return (set[block / 64] >> (block % 64) & 1) != 0;
}
inline void insert(BlockSet set, std::int64_t block) { set[block / 64] |= std::uint64_t{1} << (block % 64); }
void insert_range(BlockSet set, std::int64_t begin, std::int64_t end);  // [begin, end)

// One set for every (head, query block) of a plan. Reused from plan to plan: it only ever grows its memory.
class BlockSets {
 public:
  void reset(std::int64_t heads, std::int64_t query_blocks, std::int64_t key_blocks);
  BlockSet row(std::int64_t head, std::int64_t query_block) {
    return {words_.data() + (head * query_blocks_ + query_block) * row_words_,
            static_cast<std::size_t>(row_words_)};
  }
  std::span<const std::uint64_t> row(std::int64_t head, std::int64_t query_block) const {
    return const_cast<BlockSets*>(this)->row(head, query_block);
  }
  std::int64_t heads() const { return heads_; }
  std::int64_t query_blocks() const { return query_blocks_; }
  // Every `group` consecutive heads become one, the union of theirs.
  void unite(std::int64_t group);

 private:
  std::int64_t heads_ = 0, query_blocks_ = 0, row_words_ = 0;
  std::vector<std::uint64_t> words_;  // [heads, query_blocks, row_words]
};

// Aborts unless rule, thresholds and cache fit each other and q.
void check_planner(const BlockPlannerParams& params);
void check_queries(const BlockPlannerParams& params, const MatrixView& q,
                   std::span<const std::int64_t> query_rows);

// The cache rows of the queries of one query block.
inline std::span<const std::int64_t> rows_of_block(const BlockRule& rule,
                                                   std::span<const std::int64_t> query_rows,
                                                   std::int64_t query_block) {
  const auto begin = static_cast<std::size_t>(query_block * rule.q_block);
  return query_rows.subspan(begin,
                            std::min(static_cast<std::size_t>(rule.q_block), query_rows.size() - begin));
}
// How many key blocks some query of a query block sees: all before that number.
inline std::int64_t causal_blocks(const BlockRule& rule, std::span<const std::int64_t> rows) {
  return rows.back() / rule.k_block + 1;
}

// The queries of a block that the pooled estimate asks: every query_stride-th one from the first on, and the
// last. Of a block of `queries` the one asked after the `i`-th; `queries` at the end.
inline std::int64_t next_asked(const BlockRule& rule, std::int64_t i, std::int64_t queries) {
  return i == queries - 1 ? queries : std::min(i + rule.query_stride, queries - 1);
}

// Adds the blocks that are listed whatever their estimates: those with any row below sink_tokens, those with
// any row of [row - local_tokens, row] for a query, and all causal ones if a query lies at or behind
// dense_from_row. `rows` are the queries of one query block.
void add_forced(const BlockRule& rule, std::int64_t dense_from_row, std::span<const std::int64_t> rows,
                BlockSet set);

// Takes out the blocks that lie wholly before what the queries at `rows`, one query block, see.
void remove_unseen(const BlockPlannerParams& params, std::span<const std::int64_t> rows, BlockSet set);

// Adds blocks by their estimates (not negative; one for each causal block, or for each column or diagonal).
//   kMass: the fewest, largest first and of equal ones the later first, that together with the blocks already
//   in the set hold threshold * the sum of all estimates. Threshold 1: all that are not 0.
//   kMaximum: all but those under the threshold.
class Chooser {
 public:
  void add(BlockCriterion criterion, float threshold, std::span<const float> estimates, BlockSet set);

 private:
  void add_mass(double threshold, std::span<const float> estimates, BlockSet set);
  void take_largest(double mass, std::size_t lowest, BlockSet set);

  std::vector<std::uint64_t> candidates_;  // bits of the estimate above, index below: ordered as numbers
  std::vector<double> masses_;             // of the buckets that candidates fall into
};

// Writes blocks and offsets of `plan` from the sets; the offsets first, then rows [begin, end) of the
// heads * query_blocks in any order, also on several threads.
void write_offsets(const BlockRule& rule, const BlockSets& sets, BlockPlan& plan);
void write_blocks(const BlockSets& sets, std::int64_t begin, std::int64_t end, BlockPlan& plan);

}  // namespace winnow
