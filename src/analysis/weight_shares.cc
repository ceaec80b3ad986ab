#include "analysis/weight_shares.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace winnow {
namespace {

// Extremes and sum of n weights. In lanes, so that compilers vectorise it; comparisons drop NaN, but the sum
// keeps it.
struct RowRange {
  float min = 0, max = 0;
  double sum = 0;
};

RowRange range_of(const float* p, std::int64_t n) {
  constexpr std::int64_t kLanes = 16;
  std::array<float, kLanes> low, high;
  std::array<double, kLanes> sums{};
  low.fill(p[0]);
  high.fill(p[0]);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const float value = p[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
      sums[lane] += value;
    }
  }
  for (; i < n; ++i) {
    low[0] = std::min(low[0], p[i]);
    high[0] = std::max(high[0], p[i]);
    sums[0] += p[i];
  }
  RowRange range{.min = *std::min_element(low.begin(), low.end()),
                 .max = *std::max_element(high.begin(), high.end())};
  for (const double sum : sums) range.sum += sum;
  return range;
}

std::int64_t count_reaching(const float* p, std::int64_t n, float threshold) {
  std::int32_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += p[i] >= threshold ? 1 : 0;
  return count;
}

}  // namespace

void WeightRange::merge(const WeightRange& other) {
  if (other.rows == 0) return;
  min = rows == 0 ? other.min : std::min(min, other.min);
  max = rows == 0 ? other.max : std::max(max, other.max);
  row_sum_error = std::max(row_sum_error, other.row_sum_error);
  finite = finite && other.finite;
  rows += other.rows;
}

WeightShares::WeightShares(std::vector<float> thresholds, std::int64_t layers, std::int64_t heads,
                           std::int64_t positions)
    : thresholds_(std::move(thresholds)),
      heads_(heads),
      positions_(positions),
      ranges_(static_cast<std::size_t>(layers)),
      by_head_(static_cast<std::size_t>(layers * heads) * thresholds_.size()),
      by_position_(static_cast<std::size_t>(layers * positions) * thresholds_.size()) {}

WeightRange WeightShares::add(std::int64_t layer, std::int64_t head, const WeightChunk& chunk) {
  const std::size_t thresholds = thresholds_.size();
  std::vector<RowRange> ranges(static_cast<std::size_t>(chunk.rows));
  reaching_.resize(static_cast<std::size_t>(chunk.rows) * thresholds);
#pragma omp parallel for
  for (std::int64_t row = 0; row < chunk.rows; ++row) {
    const std::int64_t first_key = chunk.first_key(chunk.first_row + row);
    const float* p = chunk.weights + row * chunk.stride + first_key;
    const std::int64_t seen = chunk.first_row + row + 1 - first_key;
    ranges[row] = range_of(p, seen);
    for (std::size_t i = 0; i < thresholds; ++i)
      reaching_[row * thresholds + i] = count_reaching(p, seen, thresholds_[i]);
  }
  WeightRange range;
  for (std::int64_t row = 0; row < chunk.rows; ++row) {
    range.merge({.min = ranges[row].min,
                 .max = ranges[row].max,
                 .row_sum_error = std::abs(ranges[row].sum - 1),
                 .rows = 1,
                 .finite = std::isfinite(ranges[row].sum)});
    const std::int64_t place = chunk.first_row + row;
    const auto seen = static_cast<double>(place + 1 - chunk.first_key(place));
    for (std::size_t i = 0; i < thresholds; ++i) {
      const auto reaching = static_cast<double>(reaching_[row * thresholds + i]);
      const double all = 1 - reaching / static_cast<double>(positions_), causal = 1 - reaching / seen;
      Share& of_head = by_head_[static_cast<std::size_t>(layer * heads_ + head) * thresholds + i];
      Share& of_position =
          by_position_[static_cast<std::size_t>(layer * positions_ + place) * thresholds + i];
      for (Share* share : {&of_head, &of_position}) {
        share->all.add(all);
        share->causal.add(causal);
      }
    }
  }
  ranges_[layer].merge(range);
  return range;
}

const Share& WeightShares::head(std::int64_t layer, std::int64_t head, std::size_t threshold) const {
  return by_head_[static_cast<std::size_t>(layer * heads_ + head) * thresholds_.size() + threshold];
}

Share WeightShares::layer(std::int64_t layer, std::size_t threshold) const {
  Share sum;
  for (std::int64_t i = 0; i < heads_; ++i) {
    sum.all.merge(head(layer, i, threshold).all);
    sum.causal.merge(head(layer, i, threshold).causal);
  }
  return sum;
}

Share WeightShares::positions(std::int64_t layer, std::size_t threshold, std::int64_t first,
                              std::int64_t count) const {
  Share over;
  for (std::int64_t i = first; i < first + count; ++i) {
    const Share& one =
        by_position_[static_cast<std::size_t>(layer * positions_ + i) * thresholds_.size() + threshold];
    over.all.add(one.all.mean());
    over.causal.add(one.causal.mean());
  }
  return over;
}

}  // namespace winnow
