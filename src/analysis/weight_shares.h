// WeightShares: how small attention weights are, and whether they are weights at all.
#pragma once

#include <cstdint>
#include <vector>

#include "analysis/block_sweep.h"
#include "measures/statistics.h"

namespace winnow {

// What must hold of softmax weights: within 0..1, rows that sum to 1.
struct WeightRange {
  float min = 0, max = 0;    // of the weights of keys that a query sees
  double row_sum_error = 0;  // largest |row sum - 1|
  std::int64_t rows = 0;     // seen; 0: the others mean nothing
  bool finite = true;

  // Rounding aside: float32 sums of some thousand weights stay within 1e-4.
  bool sound() const { return finite && min >= 0 && max <= 1 + kTolerance && row_sum_error <= kTolerance; }
  void merge(const WeightRange& other);

  static constexpr float kTolerance = 1e-3f;
};

// A share of weights two ways: of the whole square matrix, whose upper triangle is all zeros, and of the
// causal weights alone (of a layer with a sliding window those within it).
struct Share {
  RunningMean all, causal;
};

class WeightShares {
 public:
  // `positions`: rows of the prompt.
  WeightShares(std::vector<float> thresholds, std::int64_t layers, std::int64_t heads,
               std::int64_t positions);

  // Range of this chunk alone.
  WeightRange add(std::int64_t layer, std::int64_t head, const WeightChunk& chunk);

  const std::vector<float>& thresholds() const { return thresholds_; }
  const WeightRange& range(std::int64_t layer) const { return ranges_[layer]; }
  // Mean over rows of the share of a row's weights below thresholds()[i]; its extremes are those of the rows.
  const Share& head(std::int64_t layer, std::int64_t head, std::size_t threshold) const;
  Share layer(std::int64_t layer, std::size_t threshold) const;
  // Over positions [first, first + count); every sample is a position's mean over heads and prompts.
  Share positions(std::int64_t layer, std::size_t threshold, std::int64_t first, std::int64_t count) const;

 private:
  std::vector<float> thresholds_;
  std::int64_t heads_, positions_;
  std::vector<WeightRange> ranges_;     // [layers]
  std::vector<Share> by_head_;          // [layers, heads, thresholds]
  std::vector<Share> by_position_;      // [layers, positions, thresholds]
  std::vector<std::int64_t> reaching_;  // [rows, thresholds] of a chunk: weights at least so large
};

}  // namespace winnow
