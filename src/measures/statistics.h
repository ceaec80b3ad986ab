// Statistics of samples: means that are fed one number at a time, percentiles, bootstrap intervals.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace winnow {

// Mean, variance and extremes of what was added (Welford 1962): no list is kept.
class RunningMean {
 public:
  void add(double value);
  void merge(const RunningMean& other);

  std::int64_t count() const { return count_; }
  double mean() const { return mean_; }  // 0 of nothing
  double variance() const {              // of the sample, n - 1 below; 0 of fewer than two
    return count_ < 2 ? 0 : squares_ / static_cast<double>(count_ - 1);
  }
  double min() const { return min_; }  // min, max: 0 of nothing
  double max() const { return max_; }

 private:
  std::int64_t count_ = 0;
  double mean_ = 0, squares_ = 0, min_ = 0, max_ = 0;
};

// 0 of nothing.
double mean(std::span<const double> values);

// The value below which `share` (0..1) of `values` lie, linear between neighbours: 0.5 is the median.
// `values` is not empty, in any order.
double percentile(std::span<const double> values, double share);

struct Interval {
  double low = 0, high = 0;
};

// Of fewer samples no interval is given: their spread says too little of that of the others.
constexpr std::int64_t kFewestForInterval = 5;

// 95% interval of the mean: the 2.5th and 97.5th percentile of the means of `resamples` draws with
// replacement (Efron's percentile bootstrap). The same samples and seed give the same interval on every
// machine. Nothing of fewer values than kFewestForInterval.
std::optional<Interval> bootstrap_mean95(std::span<const double> values, std::uint64_t seed = 0,
                                         std::int64_t resamples = 2000);

}  // namespace winnow
