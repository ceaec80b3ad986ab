// BlockPlan: which blocks of the attention matrix are computed; and the rules by which a backend chooses
// them.
//
// The matrix of one head is queries x cache rows. Query block i holds queries [i * q_block, (i + 1) *
// q_block) of one attention() call, key block j cache rows [j * k_block, (j + 1) * k_block); the last of
// either may be short. Causality is on top: of a listed block only the elements at or left of each query's
// own row count.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace winnow {

struct LayerKv;

struct BlockPlan {
  std::int64_t q_block = 0, k_block = 0;
  std::int64_t heads = 0;  // of the plan: as many as query heads, or as kv heads (one plan for a GQA group)
  std::int64_t query_blocks = 0;
  std::vector<std::int64_t> offsets;  // [heads * query_blocks + 1] into `blocks`
  std::vector<std::int32_t> blocks;   // key blocks, ascending and unique for each (head, query block)

  // Mean correction (FlashPrefill V2, arXiv 2608.19758): row j is the mean key and the mean value of key
  // block j, in the backend's own cache layout. Every full block that is not listed and lies wholly before
  // its query block's first query enters the softmax as one key with + ln(k_block). Null: skipped blocks
  // count nothing.
  std::shared_ptr<const LayerKv> means;

  std::span<const std::int32_t> row(std::int64_t head, std::int64_t query_block) const {
    const std::int64_t i = head * query_blocks + query_block;
    return {blocks.data() + offsets[i], static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
  }
};

// Elements (query, key) at or below the diagonal: in the plan's blocks, and in all. Mean over the plan's
// heads.
struct PlanWork {
  double computed = 0, causal = 0;
  double density() const { return causal == 0 ? 1.0 : computed / causal; }
};
// `query_rows` as in AttentionParams, of the queries the plan is for.
PlanWork plan_work(const BlockPlan& plan, std::span<const std::int64_t> query_rows);

// The plan that lists every causal block.
BlockPlan full_plan(std::int64_t q_block, std::int64_t k_block, std::int64_t heads,
                    std::span<const std::int64_t> query_rows);

// What is known about a block before it is computed.
enum class BlockEstimator : std::uint8_t {
  kNone,           // nothing: only sink and local blocks are listed (StreamingLLM, arXiv 2309.17453)
  kExact,          // the probabilities themselves: for analysis, and the other estimators' oracle
  kPooled,         // softmax of each query over the mean keys of `pool` rows
  kAntidiagonal,   // XAttention (arXiv 2503.16428): sums along antidiagonals of `stride` x `stride` cells
  kVerticalSlash,  // MInference / FlexPrefill (arXiv 2502.20766): columns and diagonals of the last queries
};

// How the estimates of a query block become a choice.
enum class BlockCriterion : std::uint8_t {
  kMass,     // sum over the block's queries; the fewest blocks that hold `threshold` of a query block's total
  kMaximum,  // every block to which any query gives more than `threshold`
};

struct BlockRule {
  BlockEstimator estimator = BlockEstimator::kPooled;
  BlockCriterion criterion = BlockCriterion::kMass;
  std::int64_t q_block = 32, k_block = 32;
  std::int64_t stride = 8;         // antidiagonal; divides both blocks
  std::int64_t pool = 16;          // pooled: rows in one mean; divides k_block
  bool variance = false;           // pooled: adds half the variance of the scores in a pool (second cumulant)
  std::int64_t query_stride = 1;   // pooled: only every so many-th query of a block is asked, and its last
  std::int64_t sink_tokens = 16;   // key blocks with any of the first rows are listed
  std::int64_t local_tokens = 64;  // and those with any of the rows up to so far before a query of the block
  bool group_union = false;        // one plan for the heads of a GQA group: the union of theirs
  bool mean_correction = false;
};

}  // namespace winnow
