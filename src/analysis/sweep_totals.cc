#include "analysis/sweep_totals.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backends/block_plan.h"
#include "core/check.h"

namespace winnow {
namespace {

constexpr double kSafeKl = 0.05, kModerateKl = 0.1;

void add_row(RowMeans& means, double kl, double minus_ln_kept) {
  if (std::isnan(kl)) {
    ++means.empty_rows;
    return;
  }
  means.kl.add(kl);
  means.minus_ln_kept.add(minus_ln_kept);
}

double share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

Verdict verdict_of(double row_kl_mean, std::int64_t empty_rows) {
  if (empty_rows > 0 || !(row_kl_mean < kModerateKl)) return Verdict::kUnsafe;
  return row_kl_mean < kSafeKl ? Verdict::kSafe : Verdict::kModerate;
}

const char* verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kSafe: return "safe";
    case Verdict::kModerate: return "moderate";
    case Verdict::kUnsafe: return "unsafe";
  }
  return "?";
}

SweepTotals::SweepTotals(std::vector<BlockShape> shapes, std::vector<float> thresholds, std::int64_t layers,
                         std::int64_t heads, std::int64_t positions)
    : shapes_(std::move(shapes)),
      thresholds_(std::move(thresholds)),
      layers_(layers),
      heads_(heads),
      positions_(positions),
      counts_(static_cast<std::size_t>(layers * heads) * shapes_.size()),
      by_layer_(static_cast<std::size_t>(layers) * shapes_.size() * thresholds_.size()),
      second_half_(by_layer_.size()),
      by_window_(static_cast<std::size_t>(block_count(positions, kWindowRows)) * shapes_.size() *
                 thresholds_.size()) {}

void SweepTotals::add(std::int64_t layer, std::int64_t head, const WeightChunk& chunk,
                      const ChunkSweep& sweep) {
  const std::size_t points = shapes_.size() * thresholds_.size();
  check(sweep.counts.size() == shapes_.size() && sweep.kl.size() == chunk.rows * points &&
            chunk.first_row + chunk.rows <= positions_,
        "SweepTotals: the sweep is of these shapes, thresholds and positions");
  for (std::size_t shape = 0; shape < shapes_.size(); ++shape)
    counts_[static_cast<std::size_t>(layer * heads_ + head) * shapes_.size() + shape].add(
        sweep.counts[shape]);
  for (std::int64_t row = 0; row < chunk.rows; ++row) {
    const std::int64_t position = chunk.first_row + row;
    for (std::size_t i = 0; i < points; ++i) {
      const double kl = sweep.kl[row * points + i], minus_ln_kept = sweep.minus_ln_kept[row * points + i];
      add_row(by_layer_[layer * points + i], kl, minus_ln_kept);
      add_row(by_window_[position / kWindowRows * points + i], kl, minus_ln_kept);
      if (position >= positions_ / 2 && !std::isnan(kl)) second_half_[layer * points + i].add(kl);
    }
  }
  rows_added_ += chunk.rows;
}

const BlockCounts& SweepTotals::counts(std::int64_t layer, std::int64_t head, std::size_t shape) const {
  return counts_[static_cast<std::size_t>(layer * heads_ + head) * shapes_.size() + shape];
}

void SweepTotals::Excluded::add(const BlockCounts& counts, std::size_t threshold) {
  for (std::size_t bin = 0; bin < counts.blocks.size(); ++bin) {
    const bool out = bin <= threshold;  // reaches `bin` thresholds, so not the one at index `bin` or higher
    all_blocks += counts.blocks[bin];
    all_elements += counts.elements[bin];
    all_second_half += counts.elements_second_half[bin];
    blocks += out ? counts.blocks[bin] : 0;
    elements += out ? counts.elements[bin] : 0;
    second_half += out ? counts.elements_second_half[bin] : 0;
  }
}

SweepTotals::Excluded SweepTotals::excluded(std::int64_t layer, std::size_t shape,
                                            std::size_t threshold) const {
  Excluded sum;
  for (std::int64_t head = 0; head < heads_; ++head) sum.add(counts(layer, head, shape), threshold);
  return sum;
}

PruneShare SweepTotals::prune_share(const Excluded& excluded, std::size_t shape, std::int64_t layers) const {
  // Every prompt has each row once for every layer and head.
  const std::int64_t prompts = rows_added_ / (layers_ * heads_ * positions_);
  const std::int64_t square = prompts * layers * heads_ * block_count(positions_, shapes_[shape].q) *
                              block_count(positions_, shapes_[shape].k);
  return {.all = share(square - excluded.all_blocks + excluded.blocks, square),
          .causal = share(excluded.blocks, excluded.all_blocks)};
}

PruneShare SweepTotals::pruned(std::int64_t layer, std::size_t shape, std::size_t threshold) const {
  return prune_share(excluded(layer, shape, threshold), shape, 1);
}

std::vector<SweepPoint> SweepTotals::points() const {
  check(rows_added_ > 0 && rows_added_ % (layers_ * heads_ * positions_) == 0, "SweepTotals: whole prompts");
  std::vector<SweepPoint> points;
  for (std::size_t shape = 0; shape < shapes_.size(); ++shape) {
    for (std::size_t threshold = 0; threshold < thresholds_.size(); ++threshold)
      points.push_back(point(shape, threshold));
  }
  return points;
}

SweepPoint SweepTotals::point(std::size_t shape, std::size_t threshold) const {
  const std::size_t points = shapes_.size() * thresholds_.size(),
                    index = shape * thresholds_.size() + threshold;
  SweepPoint result;
  result.shape = shapes_[shape];
  result.threshold = thresholds_[threshold];
  Excluded total;
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    LayerPoint one{.rows = by_layer_[layer * points + index],
                   .pruned = pruned(layer, shape, threshold),
                   .head_density = {}};
    for (std::int64_t head = 0; head < heads_; ++head) {
      Excluded of_head;
      of_head.add(counts(layer, head, shape), threshold);
      one.head_density.push_back(1 - share(of_head.elements, of_head.all_elements));
      total.add(counts(layer, head, shape), threshold);
    }
    result.layers.push_back(std::move(one));
  }
  result.pruned = prune_share(total, shape, layers_);
  result.density = 1 - share(total.elements, total.all_elements);
  result.density_second_half = 1 - share(total.second_half, total.all_second_half);
  for (std::size_t window = 0; window < by_window_.size() / points; ++window)
    result.windows.push_back(by_window_[window * points + index]);
  average_layers(result, index);
  return result;
}

// A layer none of whose rows has anything left has no mean; empty_rows tells.
void SweepTotals::average_layers(SweepPoint& point, std::size_t index) const {
  RunningMean kl, minus_ln_kept, late;
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    const RowMeans& rows = point.layers[layer].rows;
    const RunningMean& second_half = second_half_[layer * shapes_.size() * thresholds_.size() + index];
    point.empty_rows += rows.empty_rows;
    if (second_half.count() > 0) late.add(second_half.mean());
    if (rows.rows() == 0) continue;
    kl.add(rows.kl.mean());
    minus_ln_kept.add(rows.minus_ln_kept.mean());
    point.row_kl_max = std::max(point.row_kl_max, rows.kl.max());
  }
  point.row_kl_mean = kl.mean();
  point.minus_ln_kept = minus_ln_kept.mean();
  point.row_kl_second_half = late.mean();
  point.verdict = verdict_of(point.row_kl_mean, point.empty_rows);
}

std::vector<ChosenThreshold> choose_thresholds(const std::vector<SweepPoint>& points) {
  std::vector<ChosenThreshold> chosen;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const SweepPoint& point = points[i];
    if (chosen.empty() || !(chosen.back().shape == point.shape)) chosen.push_back({point.shape, -1});
    if (point.verdict == Verdict::kUnsafe) continue;
    std::int64_t& best = chosen.back().point;
    if (best < 0 || point.threshold > points[best].threshold) best = static_cast<std::int64_t>(i);
  }
  return chosen;
}

}  // namespace winnow
