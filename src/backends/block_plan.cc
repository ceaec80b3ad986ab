#include "backends/block_plan.h"

#include <algorithm>

#include "core/check.h"

namespace winnow {
namespace {

std::vector<std::int64_t> first_rows(std::span<const std::int64_t> query_rows, const SlidingWindow& window) {
  std::vector<std::int64_t> first;
  for (const std::int64_t row : query_rows) first.push_back(window.first_row(row));
  return first;
}

// `first` are the first rows that the queries see.
double computed_elements(const BlockPlan& plan, std::span<const std::int64_t> query_rows,
                         std::span<const std::int64_t> first, std::int64_t head) {
  double computed = 0;
  const auto queries = static_cast<std::int64_t>(query_rows.size());
  for (std::int64_t i = 0; i < plan.query_blocks; ++i) {
    const std::int64_t from = i * plan.q_block, count = std::min(plan.q_block, queries - from);
    for (const std::int32_t block : plan.row(head, i)) {
      const std::int64_t begin = block * plan.k_block, end = begin + plan.k_block;
      if (end <= query_rows[from] + 1 && begin >= first[from + count - 1]) {
        computed += static_cast<double>(plan.k_block) * static_cast<double>(count);
        continue;
      }
      for (std::int64_t query = from; query < from + count; ++query) {
        const std::int64_t seen_end = std::min(query_rows[query] + 1, end);
        computed += static_cast<double>(std::max<std::int64_t>(0, seen_end - std::max(first[query], begin)));
      }
    }
  }
  return computed;
}

}  // namespace

double visible_pairs(std::span<const std::int64_t> query_rows, const SlidingWindow& window) {
  double pairs = 0;
  for (const std::int64_t row : query_rows) pairs += static_cast<double>(row + 1 - window.first_row(row));
  return pairs;
}

PlanWork plan_work(const BlockPlan& plan, std::span<const std::int64_t> query_rows, std::int64_t head,
                   const SlidingWindow& window) {
  check(plan.held == nullptr, "plan_work: a backend counts the blocks it holds over all heads");
  return {computed_elements(plan, query_rows, first_rows(query_rows, window), head),
          visible_pairs(query_rows, window)};
}

PlanWork plan_work(const BlockPlan& plan, std::span<const std::int64_t> query_rows,
                   const SlidingWindow& window) {
  if (plan.held != nullptr) return {plan.held->computed->value(), visible_pairs(query_rows, window)};
  const std::vector<std::int64_t> first = first_rows(query_rows, window);
  double computed = 0;
  for (std::int64_t head = 0; head < plan.heads; ++head) {
    computed += computed_elements(plan, query_rows, first, head) / static_cast<double>(plan.heads);
  }
  return {computed, visible_pairs(query_rows, window)};
}

BlockPlan full_plan(std::int64_t q_block, std::int64_t k_block, std::int64_t heads,
                    std::span<const std::int64_t> query_rows, const SlidingWindow& window) {
  check(q_block > 0 && k_block > 0 && heads > 0, "full_plan: blocks and heads are positive");
  const auto queries = static_cast<std::int64_t>(query_rows.size());
  BlockPlan plan;
  plan.q_block = q_block;
  plan.k_block = k_block;
  plan.heads = heads;
  plan.query_blocks = block_count(queries, q_block);
  plan.offsets.push_back(0);
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < plan.query_blocks; ++i) {
      const std::int64_t last = query_rows[std::min(queries, (i + 1) * q_block) - 1];
      for (std::int64_t block = window.first_row(query_rows[i * q_block]) / k_block; block * k_block <= last;
           ++block) {
        plan.blocks.push_back(static_cast<std::int32_t>(block));
      }
      plan.offsets.push_back(static_cast<std::int64_t>(plan.blocks.size()));
    }
  }
  return plan;
}

void slice_plan(const BlockPlan& whole, std::int64_t first, std::int64_t count, BlockPlan& part) {
  check(first >= 0 && count >= 0 && first + count <= whole.query_blocks, "slice_plan: blocks of the plan");
  part.q_block = whole.q_block;
  part.k_block = whole.k_block;
  part.heads = whole.heads;
  part.query_blocks = count;
  part.means = whole.means;
  part.offsets.assign(1, 0);
  part.blocks.clear();
  for (std::int64_t head = 0; head < whole.heads; ++head) {
    for (std::int64_t i = first; i < first + count; ++i) {
      const std::span<const std::int32_t> row = whole.row(head, i);
      part.blocks.insert(part.blocks.end(), row.begin(), row.end());
      part.offsets.push_back(static_cast<std::int64_t>(part.blocks.size()));
    }
  }
}

}  // namespace winnow
