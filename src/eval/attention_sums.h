// AttentionSums: what a pass's queries pay to every cached row, by layer and head. Exact and slow: for the
// baselines that choose by attention after the fact (oracle, eviction), never for a prefill that is timed.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "runtime/session.h"

namespace winnow {

class AttentionSums {
 public:
  // Only queries at the last `window` cache rows of a layer count.
  explicit AttentionSums(const Engine& engine,
                         std::int64_t window = std::numeric_limits<std::int64_t>::max());

  // For PrefillOptions::observe_attention.
  void add(const AttentionView& view);

  // [rows] of a layer, over heads.
  std::vector<float> mean_over_heads(std::int64_t layer) const;
  std::vector<float> max_over_heads(std::int64_t layer) const;
  std::int64_t layers() const { return static_cast<std::int64_t>(sums_.size()); }

 private:
  std::span<const double> head(std::int64_t layer, std::int64_t head) const;

  const Engine& engine_;
  std::int64_t window_;
  std::vector<std::vector<double>> sums_;  // [layers][heads * rows]
  Buffer probs_;
  std::int64_t probs_bytes_ = 0;
};

}  // namespace winnow
