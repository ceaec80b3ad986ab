// BlockPlan: which blocks of the attention matrix are computed; and the rules by which a backend chooses
// them.
//
// The matrix of one head is queries x cache rows. Query block i holds queries [i * q_block, (i + 1) *
// q_block) of one attention() call, key block j cache rows [j * k_block, (j + 1) * k_block); the last of
// either may be short. Causality is on top: of a listed block only the elements at or left of each query's
// own row count, and with a sliding window only those in it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/sliding_window.h"

namespace winnow {

struct LayerKv;

// Blocks of `block` that hold n elements; the last may be short.
inline std::int64_t block_count(std::int64_t n, std::int64_t block) { return (n + block - 1) / block; }

// A number that a backend is still working out: PlanWork::computed of blocks it holds.
class PairCount {
 public:
  virtual ~PairCount() = default;
  virtual double value() const = 0;  // waits for it
};

// Blocks that a backend keeps in memory of its own.
struct HeldBlocks {
  virtual ~HeldBlocks() = default;
  std::shared_ptr<const PairCount> computed;
};

struct BlockPlan {
  std::int64_t q_block = 0, k_block = 0;
  std::int64_t heads = 0;  // of the plan: as many as query heads, or as kv heads (one plan for a GQA group)
  std::int64_t query_blocks = 0;
  std::vector<std::int64_t> offsets;       // [heads * query_blocks + 1] into `blocks`
  std::vector<std::int32_t> blocks;        // key blocks, ascending and unique for each (head, query block)
  std::shared_ptr<const HeldBlocks> held;  // null, or the blocks in place of the two lists

  // Mean correction (FlashPrefill V2, arXiv 2608.19758): row j is the mean key and the mean value of key
  // block j, in the backend's own cache layout. Every full block that is not listed, that lies wholly before
  // its query block's first query and that all of the block's queries see enters the softmax as one key with
  // + ln(k_block). Null: skipped blocks count nothing.
  std::shared_ptr<const LayerKv> means;

  std::span<const std::int32_t> row(std::int64_t head, std::int64_t query_block) const {
    const std::int64_t i = head * query_blocks + query_block;
    return {blocks.data() + offsets[i], static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
  }
};

// Elements (query, key) that a query sees: in the plan's blocks, and in all. Mean over the plan's heads.
struct PlanWork {
  double computed = 0, causal = 0;
  double density() const { return causal == 0 ? 1.0 : computed / causal; }
};
// `query_rows` as in AttentionParams, of the queries the plan is for.
PlanWork plan_work(const BlockPlan& plan, std::span<const std::int64_t> query_rows,
                   const SlidingWindow& window = {});
// Of one of the plan's heads.
PlanWork plan_work(const BlockPlan& plan, std::span<const std::int64_t> query_rows, std::int64_t head,
                   const SlidingWindow& window = {});
// PlanWork::causal: what dense attention computes.
double visible_pairs(std::span<const std::int64_t> query_rows, const SlidingWindow& window = {});

// The plan that lists every block with an element that some query sees.
BlockPlan full_plan(std::int64_t q_block, std::int64_t k_block, std::int64_t heads,
                    std::span<const std::int64_t> query_rows, const SlidingWindow& window = {});

// `part` becomes query blocks [first, first + count) of `whole`, as a plan of its own.
void slice_plan(const BlockPlan& whole, std::int64_t first, std::int64_t count, BlockPlan& part);

// What is known about a block before it is computed. p is the softmax of a query over what it is asked for.
enum class BlockEstimator : std::uint8_t {
  kNone,   // nothing: only sink and local blocks are listed (StreamingLLM, arXiv 2309.17453)
  kExact,  // the probabilities themselves: for analysis, and the other estimators' oracle
  // p over the mean keys of `pool` consecutive cache rows, of every pool that begins at or before the query;
  // each weighs as many rows as the query sees of it, though its mean takes all rows the cache has. With
  // `outliers`, the keys of a full pool that lie farthest from its mean are asked on their own and the mean
  // is that of the others: a block that matters to a query mostly holds one key that sticks out, which a mean
  // hides (docs/quality.md).
  kPooled,
  // XAttention (arXiv 2503.16428): p over sums along antidiagonals of `stride` x `stride` cells, divided by
  // `stride`. Cells begin at multiples of `stride` in the cache and in the call's queries, whatever rows
  // these sit at; queries and rows that do not exist count zero.
  kAntidiagonal,
  // MInference / FlexPrefill (arXiv 2407.02490, 2502.20766): the cache rows (columns) and the distances from
  // query to key (diagonals) that the turn's last queries attend to, chosen once, by the criterion, among
  // columns and among diagonals; blocks with one of them are listed.
  kVerticalSlash,
};

// How estimates become a choice.
enum class BlockCriterion : std::uint8_t {
  // The sum of p over the block's queries; the fewest blocks that hold `threshold` of a query block's total,
  // those that are listed anyway counted in. Of equal ones the later first. One query's far block can drown
  // in such sums.
  kMass,
  // Every block that some query gives at least `threshold`: of its p summed over the block; for kExact and
  // kVerticalSlash as a single probability.
  kMaximum,
};

constexpr std::int64_t kMaxOutliers = 4;

struct BlockRule {
  BlockEstimator estimator = BlockEstimator::kPooled;
  BlockCriterion criterion = BlockCriterion::kMass;
  std::int64_t q_block = 32, k_block = 32;
  std::int64_t stride = 8;    // antidiagonal; divides both blocks
  std::int64_t pool = 16;     // pooled: rows in one mean; divides k_block
  std::int64_t outliers = 0;  // pooled: keys of a pool asked on their own; below pool, 0..kMaxOutliers
  bool variance =
      false;  // pooled, without outliers: adds half the variance of the scores in a pool (second cumulant)
  std::int64_t query_stride = 1;   // pooled: only every so many-th query of a block is asked, and its last
  std::int64_t sink_tokens = 16;   // key blocks with any of the first rows are listed
  std::int64_t local_tokens = 64;  // and those with any of the rows up to so far before a query of the block
  bool group_union = false;        // one plan for the heads of a GQA group: the union of theirs
  bool mean_correction = false;
};

}  // namespace winnow
