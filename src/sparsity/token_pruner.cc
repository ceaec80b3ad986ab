#include "sparsity/token_pruner.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/check.h"

namespace winnow {
namespace {

// Absorbs the rounding of products like 0.7 * 10 that are whole numbers.
constexpr double kRounding = 1e-9;

std::string utc_now() {
  using namespace std::chrono;
  const auto since_epoch = duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(static_cast<std::time_t>(since_epoch / 1000)),
                     since_epoch % 1000);
}

// The tokens of [ends.head, ends.tail), the later first.
std::vector<std::int64_t> by_recency(const ProtectedEnds& ends) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(ends.tail - ends.head));
  std::iota(order.rbegin(), order.rend(), ends.head);
  return order;
}

// Most salient first; of equal ones the later first. The scores are numbers.
void sort_by_saliency(std::span<const float> scores, std::vector<std::int64_t>& order) {
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return scores[a] > scores[b]; });
}

// The `count` that come first in that order, in any order: all that a stage which keeps a fixed number needs,
// and some ten times faster on a long prompt.
void put_salient_first(std::span<const float> scores, std::int64_t count, std::vector<std::int64_t>& order) {
  std::nth_element(order.begin(), order.begin() + count, order.end(), [&](std::int64_t a, std::int64_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a > b;
  });
}

// The size of the smallest set that holds `top_p` of the mass and all protected tokens. `order` are the
// others.
template <class Mass>
std::int64_t mass_count(std::int64_t length, double top_p, std::span<const std::int64_t> order,
                        const ProtectedEnds& ends, Mass mass) {
  double held = 0.0;
  for (std::int64_t i = 0; i < ends.head; ++i) held += mass(i);
  for (std::int64_t i = ends.tail; i < length; ++i) held += mass(i);
  // Summed in the order in which tokens are added, so that all of them together hold exactly the total.
  const double total = std::accumulate(order.begin(), order.end(), held,
                                       [&](double sum, std::int64_t i) { return sum + mass(i); });
  const double wanted = top_p * total - kRounding * total;
  std::size_t added = 0;
  while (added < order.size() && held < wanted) held += mass(order[added++]);
  return std::max<std::int64_t>(length - static_cast<std::int64_t>(order.size() - added), 1);
}

// Of `count` tokens, those that the scores choose; the latest others make up the rest.
std::int64_t chosen_by_score(std::int64_t count, double quota) {
  return std::min(count,
                  static_cast<std::int64_t>(std::floor(static_cast<double>(count) * quota + kRounding)));
}

// `count` of the tokens in `order`: its first for the quota, and then the latest that are left.
std::vector<std::int64_t> chosen_tokens(std::span<const std::int64_t> order, std::int64_t count,
                                        double quota) {
  const std::int64_t by_score = chosen_by_score(count, quota);
  std::vector<std::int64_t> chosen(order.begin(), order.begin() + by_score);
  std::vector<std::int64_t> left(order.begin() + by_score, order.end());
  std::nth_element(left.begin(), left.begin() + (count - by_score), left.end(), std::greater<>());
  chosen.insert(chosen.end(), left.begin(), left.begin() + (count - by_score));
  return chosen;
}

bool any_positive(std::span<const float> scores) {
  return std::any_of(scores.begin(), scores.end(), [](float score) { return score > 0.0f; });
}

void record_scores(std::span<const float> scores, StageRecord& record) {
  double low = std::numeric_limits<double>::infinity(), high = -low, sum = 0.0;
  for (const float score : scores) {
    if (!std::isfinite(score)) continue;
    low = std::min(low, double{score});
    high = std::max(high, double{score});
    sum += std::abs(double{score});
  }
  const bool any = low <= high;
  record.scores_min = any ? low : 0.0;
  record.scores_max = any ? high : 0.0;
  record.scores_abs_sum = sum;
}

void record_stage(const Stage& stage, std::int64_t length, std::int64_t kept, bool fallback,
                  StageRecord& record) {
  record.timestamp = utc_now();
  record.layer = stage.layer;
  record.fallback_applied = fallback && kept < length;
  record.input_seq_len = length;
  record.computed_keep_k = kept;
  record.tokens_kept = kept;
  record.tokens_pruned = length - kept;
  record.pruning_ratio = static_cast<double>(length - kept) / static_cast<double>(length);
}

// A comparison that NaN wins: it must reach degenerate().
bool not_above(float a, float b) { return std::isnan(b) || a <= b; }

}  // namespace

nlohmann::json to_json(const StageRecord& record) {
  return {{"timestamp", record.timestamp},           {"layer", record.layer},
          {"input_seq_len", record.input_seq_len},   {"computed_keep_k", record.computed_keep_k},
          {"tokens_kept", record.tokens_kept},       {"tokens_pruned", record.tokens_pruned},
          {"pruning_ratio", record.pruning_ratio},   {"cumulative_ratio", record.cumulative_ratio},
          {"scores_min", record.scores_min},         {"scores_max", record.scores_max},
          {"scores_abs_sum", record.scores_abs_sum}, {"fallback_applied", record.fallback_applied},
          {"scoring_ms", record.scoring_ms}};
}

ProtectedEnds protected_ends(std::int64_t length, const TokenPolicy& policy) {
  const auto share =
      static_cast<std::int64_t>(std::floor(policy.protect_tail_share * static_cast<double>(length)));
  const std::int64_t head = std::min(policy.protect_head, length);
  const std::int64_t tail = std::min(std::max(policy.protect_tail_min, share), length - head);
  return {head, length - tail};
}

std::int64_t protected_count(std::int64_t length, const TokenPolicy& policy) {
  const ProtectedEnds ends = protected_ends(length, policy);
  return length - (ends.tail - ends.head);
}

std::int64_t keep_count(std::int64_t length, double keep, const TokenPolicy& policy) {
  check(keep >= 0.0 && keep <= 1.0, "keep_count: a share of the tokens");
  const auto share = static_cast<std::int64_t>(std::floor(static_cast<double>(length) * keep + kRounding));
  return std::min(length, std::max({protected_count(length, policy), share, std::int64_t{1}}));
}

StageCounts stage_counts(std::int64_t length, const Stage& stage, const TokenPolicy& policy) {
  const ProtectedEnds ends = protected_ends(length, policy);
  const std::int64_t unprotected = ends.tail - ends.head, kept = keep_count(length, stage.keep, policy);
  const std::int64_t chosen = std::min(unprotected, kept - (length - unprotected));
  const std::int64_t by_score = chosen_by_score(chosen, policy.quota);
  return {ends, kept, by_score, chosen - by_score};
}

bool degenerate(std::span<const float> scores) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const float score : scores) {
    if (!std::isfinite(score)) return true;
    low = std::min(low, double{score});
    high = std::max(high, double{score});
  }
  const double magnitude = std::max(std::abs(low), std::abs(high));
  return scores.empty() || magnitude == 0.0 || high - low < kEqualScores * magnitude;
}

void max_pool(std::span<float> scores, std::int64_t width) {
  check(width >= 1 && width % 2 == 1, "max_pool: the width is odd");
  const auto length = static_cast<std::int64_t>(scores.size());
  const std::int64_t reach = std::min(width / 2, length);
  if (reach == 0) return;
  const std::vector<float> input(scores.begin(), scores.end());
  std::deque<std::int64_t> candidates;  // of the window, their scores falling: the first is the maximum
  for (std::int64_t i = 0; i < length + reach; ++i) {
    if (i < length) {
      while (!candidates.empty() && not_above(input[candidates.back()], input[i])) candidates.pop_back();
      candidates.push_back(i);
    }
    const std::int64_t centre = i - reach;
    if (centre < 0) continue;
    if (candidates.front() < centre - reach) candidates.pop_front();
    scores[centre] = input[candidates.front()];
  }
}

void mix_recency(std::span<float> scores, double mix) {
  if (mix == 0.0 || degenerate(scores)) return;
  const auto length = static_cast<std::int64_t>(scores.size());
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return scores[a] < scores[b]; });
  const double highest = static_cast<double>(length - 1);  // 1 or more: a single score is degenerate
  std::vector<double> ranks(scores.size());
  for (std::int64_t rank = 0; rank < length; ++rank) ranks[order[rank]] = static_cast<double>(rank) / highest;
  for (std::int64_t i = 0; i < length; ++i) {
    scores[i] = static_cast<float>((1.0 - mix) * ranks[i] + mix * (static_cast<double>(i) / highest));
  }
}

std::vector<std::int64_t> select_tokens(std::span<const float> scores, const Stage& stage,
                                        const TokenPolicy& policy, StageRecord& record) {
  const auto length = static_cast<std::int64_t>(scores.size());
  check(length >= 1, "select_tokens: there are tokens");
  const ProtectedEnds ends = protected_ends(length, policy);
  const bool fallback = degenerate(scores) || (stage.top_p && !any_positive(scores));
  std::vector<std::int64_t> order = by_recency(ends);
  if (stage.top_p && !fallback) sort_by_saliency(scores, order);
  const auto mass = [&](std::int64_t i) { return fallback ? 1.0 : std::max(0.0, double{scores[i]}); };
  const std::int64_t keep_k = stage.top_p ? mass_count(length, *stage.top_p, order, ends, mass)
                                          : keep_count(length, stage.keep, policy);

  const auto unprotected = static_cast<std::int64_t>(order.size());
  const std::int64_t chosen = std::min(unprotected, keep_k - (length - unprotected));
  if (!stage.top_p && !fallback) put_salient_first(scores, chosen_by_score(chosen, policy.quota), order);
  std::vector<std::int64_t> kept = chosen_tokens(order, chosen, policy.quota);
  for (std::int64_t i = 0; i < ends.head; ++i) kept.push_back(i);
  for (std::int64_t i = ends.tail; i < length; ++i) kept.push_back(i);
  std::sort(kept.begin(), kept.end());

  record_stage(stage, length, keep_k, fallback, record);
  record_scores(scores, record);
  return kept;
}

StageRecord record_choice(const ChosenRows& chosen, std::int64_t length, const Stage& stage) {
  StageRecord record;
  record_stage(stage, length, std::ssize(chosen.rows), chosen.degenerate, record);
  record.scores_min = chosen.lowest;
  record.scores_max = chosen.highest;
  record.scores_abs_sum = chosen.abs_sum;
  return record;
}

}  // namespace winnow
