#include "backends/block_choice.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "core/check.h"

namespace winnow {
namespace {

std::uint64_t candidate(float estimate, std::int64_t block) {
  return std::uint64_t{std::bit_cast<std::uint32_t>(estimate)} << 32 | static_cast<std::uint64_t>(block);
}
double estimate_of(std::uint64_t candidate) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(candidate >> 32));
}
// 32 buckets for each power of 2: buckets are ordered as the estimates in them.
std::size_t bucket_of(float estimate) { return std::bit_cast<std::uint32_t>(estimate) >> 18; }
std::int64_t block_of(std::uint64_t candidate) { return static_cast<std::int64_t>(candidate & 0xffffffffu); }

void add_maximum(float threshold, std::span<const float> estimates, BlockSet set) {
  const auto count = static_cast<std::int64_t>(estimates.size());
  for (std::int64_t first = 0; first < count; first += 64) {
    std::uint64_t word = 0;
    const std::int64_t bits = std::min<std::int64_t>(64, count - first);
    for (std::int64_t bit = 0; bit < bits; ++bit) {
      word |= static_cast<std::uint64_t>(estimates[first + bit] >= threshold) << bit;
    }
    set[first / 64] |= word;
  }
}

}  // namespace

void insert_range(BlockSet set, std::int64_t begin, std::int64_t end) {
  for (std::int64_t block = begin; block < end;) {
    const std::int64_t bit = block % 64, count = std::min(64 - bit, end - block);
    const std::uint64_t ones = count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
    set[block / 64] |= ones << bit;
    block += count;
  }
}

void BlockSets::reset(std::int64_t heads, std::int64_t query_blocks, std::int64_t key_blocks) {
  heads_ = heads;
  query_blocks_ = query_blocks;
  row_words_ = block_count(key_blocks, 64);
  words_.assign(static_cast<std::size_t>(heads * query_blocks * row_words_), 0);
}

void BlockSets::unite(std::int64_t group) {
  for (std::int64_t head = 0; head < heads_; ++head) {
    for (std::int64_t i = 0; i < query_blocks_; ++i) {
      const BlockSet from = row(head, i), to = row(head / group, i);
      // The first head of a group moves to where an earlier group's head has been read.
      for (std::size_t w = 0; w < to.size(); ++w) to[w] = head % group == 0 ? from[w] : to[w] | from[w];
    }
  }
  heads_ /= group;
}

void check_planner(const BlockPlannerParams& params) {
  const BlockRule& rule = params.rule;
  const auto heads = static_cast<std::int64_t>(params.thresholds.size());
  check(params.kv != nullptr && heads > 0 && heads % params.kv->kv_heads == 0,
        "planner: one threshold for each query head");
  check(params.scale > 0, "planner: the scale is positive");
  check(params.window >= 0, "planner: the window is not negative");
  check(rule.q_block > 0 && rule.k_block > 0, "planner: blocks are positive");
  check(rule.sink_tokens >= 0 && rule.local_tokens >= 0, "planner: sink and local tokens are not negative");
  for (const float threshold : params.thresholds) check(threshold >= 0, "planner: a threshold is negative");
  switch (rule.estimator) {
    case BlockEstimator::kNone:
    case BlockEstimator::kExact: break;
    case BlockEstimator::kPooled:
      check(rule.pool > 0 && rule.k_block % rule.pool == 0, "planner: pool divides k_block");
      check(rule.query_stride > 0, "planner: query_stride is positive");
      check(rule.outliers >= 0 && rule.outliers <= kMaxOutliers && rule.outliers < rule.pool,
            "planner: outliers leave something of a pool");
      check(rule.outliers == 0 || !rule.variance, "planner: outliers or variance, not both");
      break;
    case BlockEstimator::kAntidiagonal:
      check(rule.stride > 0 && rule.q_block % rule.stride == 0 && rule.k_block % rule.stride == 0,
            "planner: stride divides both blocks");
      break;
    case BlockEstimator::kVerticalSlash:
      check(params.last_q.rows > 0 && params.last_q.rows <= std::min<std::int64_t>(64, params.kv->rows),
            "planner: vertical_slash needs 1 to 64 last queries");
      check(params.last_q.cols == heads * params.kv->head_dim, "planner: last_q has all heads");
      break;
  }
}

void check_queries(const BlockPlannerParams& params, const MatrixView& q,
                   std::span<const std::int64_t> query_rows) {
  const auto heads = static_cast<std::int64_t>(params.thresholds.size());
  check(q.cols == heads * params.kv->head_dim, "plan: q has all heads");
  check(static_cast<std::int64_t>(query_rows.size()) == q.rows, "plan: one cache row a query");
  for (std::size_t i = 0; i < query_rows.size(); ++i) {
    check(query_rows[i] >= 0 && query_rows[i] < params.kv->rows, "plan: a query sits in the cache");
    check(i == 0 || query_rows[i - 1] < query_rows[i], "plan: query_rows ascend strictly");
  }
}

void add_forced(const BlockRule& rule, std::int64_t dense_from_row, std::span<const std::int64_t> rows,
                BlockSet set) {
  const std::int64_t causal = causal_blocks(rule, rows);
  if (dense_from_row >= 0 && rows.back() >= dense_from_row) {
    insert_range(set, 0, causal);
    return;
  }
  insert_range(set, 0, std::min(causal, block_count(rule.sink_tokens, rule.k_block)));
  for (std::size_t run = 0, next = 1; run < rows.size(); run = next++) {  // of consecutive rows
    while (next < rows.size() && rows[next] == rows[next - 1] + 1) ++next;
    insert_range(set, std::max<std::int64_t>(0, rows[run] - rule.local_tokens) / rule.k_block,
                 rows[next - 1] / rule.k_block + 1);
  }
}

void remove_unseen(const BlockPlannerParams& params, std::span<const std::int64_t> rows, BlockSet set) {
  const std::int64_t first = params.kv->window(params.window).first_row(rows.front()) / params.rule.k_block;
  std::fill_n(set.begin(), first / 64, std::uint64_t{0});
  set[first / 64] &= ~std::uint64_t{0} << (first % 64);
}

void Chooser::add(BlockCriterion criterion, float threshold, std::span<const float> estimates, BlockSet set) {
  switch (criterion) {
    case BlockCriterion::kMass: add_mass(threshold, estimates, set); return;
    case BlockCriterion::kMaximum: add_maximum(threshold, estimates, set); return;
  }
  check(false, "planner: an unknown criterion");
}

void Chooser::add_mass(double threshold, std::span<const float> estimates, BlockSet set) {
  const auto count = static_cast<std::int64_t>(estimates.size());
  double sums[4] = {};  // additions that need not wait for each other
  for (std::int64_t block = 0; block < count; ++block) sums[block % 4] += estimates[block];
  const double total = sums[0] + sums[1] + sums[2] + sums[3];
  // Whatever is larger than what may be left out is needed; what is smaller than its count-th part never is:
  // all of that together may be left out.
  const double left_out = threshold >= 1 ? 0.0 : total * (1 - threshold);
  const double never = left_out / static_cast<double>(count);
  double taken = 0;
  candidates_.clear();
  for (std::int64_t block = 0; block < count; ++block) {
    const float estimate = estimates[block];
    if (estimate > left_out) insert(set, block);
    if (contains(set, block)) {
      taken += estimate;
    } else if (estimate > never) {
      candidates_.push_back(candidate(estimate, block));
    }
  }
  const std::size_t lowest = bucket_of(static_cast<float>(never));
  masses_.assign(bucket_of(static_cast<float>(left_out)) - lowest + 1, 0.0);
  take_largest(threshold * total - taken, lowest, set);
}

// Adds up the candidates' masses by buckets; only the bucket in which `mass` is reached needs to be sorted.
void Chooser::take_largest(double mass, std::size_t lowest, BlockSet set) {
  if (mass <= 0 || candidates_.empty()) return;
  const auto bucket = [lowest](std::uint64_t candidate) { return (candidate >> (32 + 18)) - lowest; };
  for (const std::uint64_t candidate : candidates_) masses_[bucket(candidate)] += estimate_of(candidate);
  std::size_t last = masses_.size() - 1;
  for (; last > 0 && masses_[last] < mass; --last) mass -= masses_[last];
  std::size_t kept = 0;
  for (const std::uint64_t candidate : candidates_) {
    if (bucket(candidate) > last) insert(set, block_of(candidate));
    if (bucket(candidate) == last) candidates_[kept++] = candidate;
  }
  candidates_.resize(kept);
  std::sort(candidates_.begin(), candidates_.end(), std::greater<>());
  for (const std::uint64_t candidate : candidates_) {
    if (mass <= 0) break;
    insert(set, block_of(candidate));
    mass -= estimate_of(candidate);
  }
}

void write_offsets(const BlockRule& rule, const BlockSets& sets, BlockPlan& plan) {
  plan.q_block = rule.q_block;
  plan.k_block = rule.k_block;
  plan.heads = sets.heads();
  plan.query_blocks = sets.query_blocks();
  plan.offsets.clear();
  plan.offsets.push_back(0);
  for (std::int64_t row = 0; row < plan.heads * plan.query_blocks; ++row) {
    std::int64_t count = plan.offsets.back();
    for (const std::uint64_t word : sets.row(0, row)) count += std::popcount(word);
    plan.offsets.push_back(count);
  }
  plan.blocks.resize(static_cast<std::size_t>(plan.offsets.back()));
}

void write_blocks(const BlockSets& sets, std::int64_t begin, std::int64_t end, BlockPlan& plan) {
  for (std::int64_t row = begin; row < end; ++row) {
    std::int32_t* out = plan.blocks.data() + plan.offsets[row];
    std::int32_t first = 0;
    for (std::uint64_t word : sets.row(0, row)) {
      for (; word != 0; word &= word - 1) *out++ = first + std::countr_zero(word);
      first += 64;
    }
  }
}

}  // namespace winnow
