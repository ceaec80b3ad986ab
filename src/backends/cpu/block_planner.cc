#include "backends/cpu/block_planner.h"

#include <algorithm>
#include <utility>

#include "backends/block_choice.h"
#include "backends/cpu/block_lister.h"
#include "backends/cpu/parallel_tasks.h"
#include "backends/cpu/pooled_keys.h"
#include "backends/cpu/row_scores.h"
#include "backends/cpu/window_softmax.h"
#include "core/check.h"

namespace winnow::cpu {
namespace {

// Queries of one task: several tiles, so that little of the last one is wasted, and several tasks a head in a
// chunk of 512 queries, so that threads finish together.
constexpr std::int64_t kTaskQueries = 256;

std::unique_ptr<BlockLister> make_lister(const ListerParams& params) {
  switch (params.params.rule.estimator) {
    case BlockEstimator::kNone: return nullptr;
    case BlockEstimator::kExact: return make_exact_lister(params);
    case BlockEstimator::kPooled: return make_pooled_lister(params);
    case BlockEstimator::kAntidiagonal: return make_antidiagonal_lister(params);
    case BlockEstimator::kVerticalSlash: return make_vertical_slash_lister(params);
  }
  check(false, "planner: an unknown estimator");
  return nullptr;
}

class CpuPlanner final : public BlockPlanner {
 public:
  CpuPlanner(const BlockPlannerParams& params, const TileKernels& kernels, int threads)
      : params_(params),
        kernels_(kernels),
        heads_(static_cast<std::int64_t>(params.thresholds.size()) * params.kv->head_dim, *params.kv,
               kernels),
        threads_(threads),
        lister_(make_lister({params_, kernels_, heads_, threads_})) {
    if (params_.rule.mean_correction) {
      means_ = std::make_unique<BlockMeans>(*params_.kv, heads_, params_.rule.k_block, threads_);
    }
  }

  void plan(const MatrixView& q, std::span<const std::int64_t> query_rows, BlockPlan& plan) override {
    check_queries(params_, q, query_rows);
    check(q.dtype == kernels_.dtype, "plan: q has another type than the cache");
    const BlockRule& rule = params_.rule;
    sets_.reset(heads_.heads, block_count(q.rows, rule.q_block), block_count(params_.kv->rows, rule.k_block));
    if (lister_) lister_->extend();
    list_blocks({q, query_rows});
    if (rule.group_union) sets_.unite(heads_.group);
    write_offsets(rule, sets_, plan);
    parallel_rows(threads_, plan.heads * plan.query_blocks,
                  [&](std::int64_t begin, std::int64_t end) { write_blocks(sets_, begin, end, plan); });
    if (means_) means_->extend();
    plan.means = means_ ? means_->means() : nullptr;
  }

 private:
  void list_blocks(const PlanCall& call) {
    const std::int64_t blocks = sets_.query_blocks();
    const std::int64_t task_blocks = std::max<std::int64_t>(1, kTaskQueries / params_.rule.q_block);
    const std::int64_t tasks_per_head = block_count(blocks, task_blocks);
    parallel_tasks(threads_, tasks_per_head * heads_.heads, kernels_, [&](std::int64_t task, int thread) {
      const std::int64_t head = task % heads_.heads, begin = task / heads_.heads * task_blocks;
      const std::int64_t end = std::min(blocks, begin + task_blocks);
      for (std::int64_t i = begin; i < end; ++i) {
        add_forced(params_.rule, params_.dense_from_row, rows_of_block(params_.rule, call.query_rows, i),
                   sets_.row(head, i));
      }
      if (lister_) lister_->list(call, head, begin, end, thread, sets_);
      for (std::int64_t i = begin; params_.window > 0 && i < end; ++i) {
        remove_unseen(params_, rows_of_block(params_.rule, call.query_rows, i), sets_.row(head, i));
      }
    });
  }

  BlockPlannerParams params_;
  const TileKernels& kernels_;
  CacheHeads heads_;
  int threads_;
  std::unique_ptr<BlockLister> lister_;  // null: only forced blocks
  std::unique_ptr<BlockMeans> means_;    // null: no mean correction
  BlockSets sets_;
};

}  // namespace

void attention_probs(const AttentionProbsParams& params, const TileKernels& kernels, int threads) {
  const LayerKv& kv = *params.kv;
  const CacheHeads heads(params.q.cols, kv, kernels);
  check(params.q.dtype == kernels.dtype, "attention_probs: q has another type than the cache");
  check(
      params.probs.rows == params.q.rows && params.probs.cols == kv.rows && params.probs.dtype == DType::kF32,
      "attention_probs: one float32 for each query and cache row");
  check(static_cast<std::int64_t>(params.query_rows.size()) == params.q.rows,
        "attention_probs: one cache row a query");
  const SlidingWindow window = kv.window(params.window);
  std::vector<RowScores> s;
  for (int thread = 0; thread < threads; ++thread) s.emplace_back(heads, kv.rows);
  parallel_tasks(
      threads, block_count(params.q.rows, kTileQueries), kernels, [&](std::int64_t task, int thread) {
        const std::int64_t begin = task * kTileQueries, count = std::min(kTileQueries, params.q.rows - begin);
        s[thread].compute(kernels, kv, params.q, params.head, begin, count,
                          window.first_row(params.query_rows[begin]),
                          params.query_rows[begin + count - 1] + 1);
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t row = params.query_rows[begin + i], first = window.first_row(row);
          float* probs = params.probs.row<float>(begin + i);
          std::fill_n(probs, kv.rows, 0.0f);
          add_softmax(s[thread].row(i) + first, row + 1 - first, params.scale, 1.0f, probs + first);
        }
      });
}

std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams& params, const TileKernels& kernels,
                                           int threads) {
  check_planner(params);
  return std::make_unique<CpuPlanner>(params, kernels, threads);
}

}  // namespace winnow::cpu
