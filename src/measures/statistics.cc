#include "measures/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "core/check.h"

namespace winnow {

void RunningMean::add(double value) {
  min_ = count_ == 0 ? value : std::min(min_, value);
  max_ = count_ == 0 ? value : std::max(max_, value);
  ++count_;
  const double step = value - mean_;
  mean_ += step / static_cast<double>(count_);
  squares_ += step * (value - mean_);
}

void RunningMean::merge(const RunningMean& other) {
  if (other.count_ == 0) return;
  if (count_ == 0) {
    *this = other;
    return;
  }
  const auto a = static_cast<double>(count_), b = static_cast<double>(other.count_);
  const double step = other.mean_ - mean_;
  mean_ += step * b / (a + b);
  squares_ += other.squares_ + step * step * a * b / (a + b);
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
  count_ += other.count_;
}

double mean(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double percentile(std::span<const double> values, double share) {
  check(!values.empty(), "percentile of nothing");
  check(share >= 0 && share <= 1, "percentile: a share of 0..1");
  std::vector<double> sorted(values.begin(), values.end());
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(place);
  std::nth_element(sorted.begin(), sorted.begin() + below, sorted.end());
  const double low = sorted[below];
  if (below + 1 == static_cast<std::ptrdiff_t>(sorted.size())) return low;
  const double high = *std::min_element(sorted.begin() + below + 1, sorted.end());
  return low + (place - static_cast<double>(below)) * (high - low);
}

std::optional<Interval> bootstrap_mean95(std::span<const double> values, std::uint64_t seed,
                                         std::int64_t resamples) {
  check(resamples > 0, "bootstrap of nothing");
  if (std::ssize(values) < kFewestForInterval) return std::nullopt;
  std::mt19937_64 random(seed);
  std::vector<double> means(static_cast<std::size_t>(resamples));
  for (double& one : means) {
    double sum = 0;
    // Not uniform_int_distribution, whose numbers differ between libraries; the bias is below 1e-12.
    for (std::size_t i = 0; i < values.size(); ++i) sum += values[random() % values.size()];
    one = sum / static_cast<double>(values.size());
  }
  return Interval{percentile(means, 0.025), percentile(means, 0.975)};
}

}  // namespace winnow
