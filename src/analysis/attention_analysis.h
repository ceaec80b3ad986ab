// AttentionAnalysis: watches a prefill and sums up what its attention weights look like, layer by layer, head
// by head, a chunk of queries at a time. It never holds more than one head's weights for one chunk.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "analysis/block_sweep.h"
#include "analysis/sweep_totals.h"
#include "analysis/weight_shares.h"
#include "backends/backend.h"
#include "runtime/session.h"

namespace winnow {

// Weights reported as shares of those below them, and the mean of the share below the first by position.
inline const std::vector<float> kWeightThresholds{0.05f, 0.1f, 0.01f, 0.001f, 0.0001f};
// A layer's blocks of a shape are worth pruning when more than this share of them stays under this weight.
constexpr float kPrunableMaximum = 0.1f;
constexpr double kPrunableShare = 0.1;

struct AnalysisOptions {
  std::vector<BlockShape> shapes;
  std::vector<float> thresholds;  // ascending strictly; kPrunableMaximum is among them
  std::int64_t layers = 0, heads = 0;
  std::int64_t tokens = 0;  // of every prompt
};

class AttentionAnalysis {
 public:
  // Sees one head's weights of one chunk: (layer, head, weights).
  using Tap = std::function<void(std::int64_t, std::int64_t, const WeightChunk&)>;

  AttentionAnalysis(const AnalysisOptions& options, Backend& backend);

  // For PrefillOptions::observe_attention, of dense prefills of options.tokens tokens in new sessions.
  // Error(kBadFormat) when the weights are none (NaN, or rows that do not sum to 1), naming layer, head and
  // queries.
  void observe(const AttentionView& view);
  void set_tap(Tap tap) { tap_ = std::move(tap); }

  const SweepTotals& totals() const { return totals_; }
  const WeightShares& shares() const { return shares_; }

 private:
  AnalysisOptions options_;
  Backend& backend_;
  BlockSweep sweep_;
  SweepTotals totals_;
  WeightShares shares_;
  Buffer weights_;  // [chunk rows, tokens] float32
  Tap tap_;
};

}  // namespace winnow
