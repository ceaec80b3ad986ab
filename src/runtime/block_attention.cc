#include "runtime/block_attention.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/elapsed.h"
#include "sparsity/selector.h"

namespace winnow {
namespace {

constexpr std::int64_t kMaxLastQueries = 64;  // as BlockPlannerParams

// How many of the last queries sit at the cache's last rows, without a gap: a stage may have dropped tokens
// in between.
std::int64_t queries_at_the_end(const AttentionView& all) {
  const auto count = static_cast<std::int64_t>(all.query_rows.size());
  std::int64_t n = 0;
  while (n < std::min(count, kMaxLastQueries) && all.query_rows[count - 1 - n] == all.kv->rows - 1 - n) ++n;
  return n;
}

}  // namespace

const char* dense_reason_name(DenseReason reason) {
  switch (reason) {
    case DenseReason::kNone: return "";
    case DenseReason::kFirstLayers: return "first layers";
    case DenseReason::kWindow: return "sliding window";
    case DenseReason::kShort: return "short";
    case DenseReason::kTooDense: return "too dense";
  }
  return "?";
}

nlohmann::json to_json(const BlockRecord& record) {
  return {{"layer", record.layer},
          {"rows", record.rows},
          {"density", record.density()},
          {"plan_ms", record.plan_ms},
          {"attention_ms", record.attention_ms},
          {"sparse_chunks", record.sparse_chunks},
          {"dense_chunks", record.dense_chunks},
          {"gated", dense_reason_name(record.gated)}};
}

BlockRecord LayerWork::record() const {
  BlockRecord record = counted;
  for (const auto& count : computed) record.computed_pairs += count->value();
  return record;
}

LayerPlanner::LayerPlanner(const AttentionPolicy& policy, const AttentionCosts* costs, Backend& backend,
                           const AttentionView& all, std::int64_t rows)
    : policy_(policy), costs_(costs), backend_(backend), all_(all) {
  const auto count = static_cast<std::int64_t>(all.query_rows.size());
  check(rows >= 1 && rows <= count, "LayerPlanner: some of the queries are computed");
  record_.layer = all.layer;
  record_.rows = rows;
  if (policy.dense()) {
    layer_dense_ = DenseReason::kNone;
    return;
  }
  if (policy.dense_last_tokens > 0) {
    dense_from_row_ = all.query_rows[std::max<std::int64_t>(0, count - policy.dense_last_tokens)];
  }
  const std::span<const std::int64_t> computed = all.query_rows.last(static_cast<std::size_t>(rows));
  if (all.layer < policy.dense_first_layers) {
    layer_dense_ = DenseReason::kFirstLayers;
  } else if (window().size > 0 && window().first_row(all.query_rows.back()) > 0 && !backend.plans_windows()) {
    layer_dense_ = DenseReason::kWindow;
  } else if (costs != nullptr &&
             !costs->planning_may_pay(static_cast<double>(all.kv->rows), visible_pairs(computed, window()),
                                      forced_pairs(computed))) {
    layer_dense_ = DenseReason::kShort;
  }
}

const BlockPlan* LayerPlanner::plan(const MatrixView& q, std::span<const std::int64_t> query_rows) {
  const double causal = visible_pairs(query_rows, window());
  record_.causal_pairs += causal;
  if (layer_dense_) return dense(causal, *layer_dense_);
  if (costs_ != nullptr && !costs_->planning_may_pay(0, causal, forced_pairs(query_rows))) {
    return dense(causal, DenseReason::kShort);
  }
  const auto start = std::chrono::steady_clock::now();
  if (planner_ == nullptr) make_planner();
  plan_chunk(q, query_rows);
  if (costs_ == nullptr && plan_.held != nullptr) {  // nobody asks yet how many pairs these are
    uncounted_.push_back(plan_.held->computed);
    record_.plan_ms += ms_since(start);
  } else {
    const PlanWork work = plan_work(plan_, query_rows, window());
    record_.plan_ms += ms_since(start);
    if (costs_ != nullptr &&
        !costs_->plan_pays({backend_.mean_over_model_heads(work.computed), work.causal})) {
      return dense(causal, DenseReason::kTooDense);
    }
    record_.computed_pairs += work.computed;
  }
  ++record_.sparse_chunks;
  return &plan_;
}

// The first chunk to be planned has all that follow planned with it: threads are woken once a layer, not once
// a chunk, which costs more than choosing (docs/kernels.md).
void LayerPlanner::plan_chunk(const MatrixView& q, std::span<const std::int64_t> query_rows) {
  const std::span<const std::int64_t> all = all_.query_rows;
  const std::int64_t first = std::lower_bound(all.begin(), all.end(), query_rows.front()) - all.begin();
  const std::int64_t q_block = policy_.rule.q_block, count = std::ssize(query_rows);
  const bool whole_blocks =
      planner_->plans_ahead() && (count % q_block == 0 || first + count == std::ssize(all));
  if (planned_from_ < 0 && whole_blocks) {
    planned_from_ = first;
    planner_->plan(all_.q.slice(first, all_.q.rows - first), all.subspan(static_cast<std::size_t>(first)),
                   rest_);
  }
  if (planned_from_ < 0 || !whole_blocks || (first - planned_from_) % q_block != 0) {
    planner_->plan(q, query_rows, plan_);
    return;
  }
  slice_plan(rest_, (first - planned_from_) / q_block, (count + q_block - 1) / q_block, plan_);
}

const BlockPlan* LayerPlanner::dense(double causal, DenseReason reason) {
  record_.computed_pairs += causal;
  ++record_.dense_chunks;
  record_.gated = reason;
  return nullptr;
}

// About what any plan lists: sink and local blocks, rounded up to whole ones, and all of the last queries.
double LayerPlanner::forced_pairs(std::span<const std::int64_t> query_rows) const {
  const BlockRule& rule = policy_.rule;
  const std::int64_t sink = (rule.sink_tokens + rule.k_block - 1) / rule.k_block * rule.k_block;
  const std::int64_t least = sink + rule.local_tokens + (rule.q_block + rule.k_block) / 2;
  double pairs = 0;
  for (const std::int64_t row : query_rows) {
    const bool all = dense_from_row_ >= 0 && row >= dense_from_row_;
    const std::int64_t seen = row + 1 - window().first_row(row);
    pairs += static_cast<double>(all ? seen : std::min(seen, least));
  }
  return pairs;
}

void LayerPlanner::make_planner() {
  const AttentionView& all = all_;
  BlockPlannerParams params = planner_params(policy_, all.layer, backend_.heads_here(all.q, *all.kv));
  const std::int64_t window = queries_at_the_end(all);
  params.kv = all.kv;
  params.scale = all.scale;
  params.window = all.window;
  params.dense_from_row = dense_from_row_;
  params.last_q = all.q.slice(all.q.rows - window, window);
  planner_ = backend_.make_planner(params);
}

}  // namespace winnow
