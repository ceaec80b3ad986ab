// SweepTotals: the sums of many ChunkSweeps, by layer, head and position of the query, and what follows from
// them: one SweepPoint for every block shape and threshold.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/block_sweep.h"
#include "measures/statistics.h"

namespace winnow {

// Queries whose results are reported together.
constexpr std::int64_t kWindowRows = 25;

enum class Verdict : std::uint8_t { kSafe, kModerate, kUnsafe };
// Mean row KL under 0.05: safe, under 0.1: moderate. Unsafe also when a row has nothing left, whatever the
// others say.
Verdict verdict_of(double row_kl_mean, std::int64_t empty_rows);
const char* verdict_name(Verdict verdict);

// Means over the rows that have anything left; `rows` 0: there is no such row.
struct RowMeans {
  RunningMean kl, minus_ln_kept;
  std::int64_t empty_rows = 0;
  std::int64_t rows() const { return kl.count(); }
};

struct PruneShare {
  double all = 0;     // of all blocks of the square matrix: the naive count, upper triangle included
  double causal = 0;  // of the blocks with any causal element, within the layer's window if it has one
};

struct LayerPoint {
  RowMeans rows;
  PruneShare pruned;
  std::vector<double> head_density;  // [heads]
};

// One block shape at one threshold.
struct SweepPoint {
  BlockShape shape;
  float threshold = 0;
  PruneShare pruned;
  double density = 0, density_second_half = 0;  // computed / causal elements
  // Mean over heads and queries for each layer, then over layers.
  double row_kl_mean = 0, row_kl_second_half = 0, minus_ln_kept = 0;
  double row_kl_max = 0;  // of any row
  std::int64_t empty_rows = 0;
  Verdict verdict = Verdict::kUnsafe;
  std::vector<LayerPoint> layers;
  std::vector<RowMeans> windows;  // of kWindowRows queries, over all layers and heads
};

class SweepTotals {
 public:
  // `shapes` and `thresholds` as of the BlockSweep whose results are added; `positions`: rows of a prompt.
  SweepTotals(std::vector<BlockShape> shapes, std::vector<float> thresholds, std::int64_t layers,
              std::int64_t heads, std::int64_t positions);

  // Chunks of one prompt or of several of the same length; each layer, head and row as often as the others.
  void add(std::int64_t layer, std::int64_t head, const WeightChunk& chunk, const ChunkSweep& sweep);

  // [shapes, thresholds]
  std::vector<SweepPoint> points() const;
  // Share of a layer's blocks of a shape whose largest weight is under thresholds[threshold].
  PruneShare pruned(std::int64_t layer, std::size_t shape, std::size_t threshold) const;

 private:
  // As BlockCounts, summed up to one threshold: what is excluded there, and everything.
  struct Excluded {
    std::int64_t blocks = 0, all_blocks = 0, elements = 0, all_elements = 0, second_half = 0,
                 all_second_half = 0;
    void add(const BlockCounts& counts, std::size_t threshold);
  };

  const BlockCounts& counts(std::int64_t layer, std::int64_t head, std::size_t shape) const;
  Excluded excluded(std::int64_t layer, std::size_t shape, std::size_t threshold) const;
  PruneShare prune_share(const Excluded& excluded, std::size_t shape, std::int64_t layers) const;
  SweepPoint point(std::size_t shape, std::size_t threshold) const;
  void average_layers(SweepPoint& point, std::size_t index) const;

  std::vector<BlockShape> shapes_;
  std::vector<float> thresholds_;
  std::int64_t layers_, heads_, positions_;
  std::int64_t rows_added_ = 0;
  std::vector<BlockCounts> counts_;       // [layers, heads, shapes]
  std::vector<RowMeans> by_layer_;        // [layers, points]
  std::vector<RunningMean> second_half_;  // [layers, points] KL of the rows from positions / 2 on
  std::vector<RowMeans> by_window_;       // [windows, points]
};

// For every shape the largest threshold whose mean row KL is under 0.1 with something left of every row; -1
// if there is none. `points` as SweepTotals gives them.
struct ChosenThreshold {
  BlockShape shape;
  std::int64_t point = -1;  // index into the points
};
std::vector<ChosenThreshold> choose_thresholds(const std::vector<SweepPoint>& points);

}  // namespace winnow
