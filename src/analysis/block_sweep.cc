#include "analysis/block_sweep.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/check.h"

namespace winnow {

void BlockCounts::add(const BlockCounts& other) {
  const auto add_to = [](std::vector<std::int64_t>& sums, const std::vector<std::int64_t>& more) {
    sums.resize(more.size());
    for (std::size_t i = 0; i < more.size(); ++i) sums[i] += more[i];
  };
  add_to(blocks, other.blocks);
  add_to(elements, other.elements);
  add_to(elements_second_half, other.elements_second_half);
}

BlockSweep::BlockSweep(std::vector<BlockShape> shapes, std::vector<float> thresholds,
                       std::int64_t second_half)
    : shapes_(std::move(shapes)), thresholds_(std::move(thresholds)), second_half_(second_half) {
  check(!shapes_.empty() && !thresholds_.empty() && thresholds_.size() < 256,
        "BlockSweep: something to sweep");
  check(
      std::adjacent_find(thresholds_.begin(), thresholds_.end(), std::greater_equal<>()) == thresholds_.end(),
      "BlockSweep: thresholds ascend strictly");
  std::int64_t finest = 0;
  group_rows_ = 1;
  for (const BlockShape& shape : shapes_) {
    finest = std::gcd(finest, shape.k);
    group_rows_ = std::lcm(group_rows_, shape.q);
    level_widths_.push_back(shape.k);
  }
  group_rows_ *= std::max<std::int64_t>(1, 16 / group_rows_);  // a few rows at least: less to hand out
  level_widths_.push_back(finest);
  std::sort(level_widths_.begin(), level_widths_.end());
  level_widths_.erase(std::unique(level_widths_.begin(), level_widths_.end()), level_widths_.end());
  for (std::size_t level = 0; level < level_widths_.size(); ++level) {
    std::size_t finer = level == 0 ? 0 : level - 1;
    while (level_widths_[level] % level_widths_[finer] != 0) --finer;  // ends at the first, the gcd
    finer_.push_back(finer);
  }
  for (const BlockShape& shape : shapes_) {
    const auto found = std::find(level_widths_.begin(), level_widths_.end(), shape.k);
    level_of_.push_back(static_cast<std::size_t>(found - level_widths_.begin()));
  }
}

const ChunkSweep& BlockSweep::sweep(const WeightChunk& chunk) {
  for (const BlockShape& shape : shapes_)
    check(chunk.first_row % shape.q == 0, "a chunk begins where a block of queries does");
  check(chunk.rows > 0 && chunk.first_row + chunk.rows <= chunk.stride,
        "every query has a column of its own");
  const auto points = static_cast<std::int64_t>(shapes_.size() * thresholds_.size());
  result_.kl.resize(static_cast<std::size_t>(chunk.rows * points));
  result_.minus_ln_kept.resize(result_.kl.size());
  const std::int64_t groups = (chunk.rows + group_rows_ - 1) / group_rows_;
  if (static_cast<std::int64_t>(groups_.size()) < groups) groups_.resize(static_cast<std::size_t>(groups));
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t i = 0; i < groups; ++i) {
    const std::int64_t begin = i * group_rows_;
    sweep_group(chunk, begin, std::min(group_rows_, chunk.rows - begin), groups_[i]);
  }
  result_.counts.assign(shapes_.size(), {});
  for (std::int64_t i = 0; i < groups; ++i) {
    for (std::size_t shape = 0; shape < shapes_.size(); ++shape)
      result_.counts[shape].add(groups_[i].counts[shape]);
  }
  return result_;
}

// Rows [begin, begin + rows) of the chunk.
void BlockSweep::sweep_group(const WeightChunk& chunk, std::int64_t begin, std::int64_t rows, Group& group) {
  const std::int64_t first_row = chunk.first_row + begin, keys = first_row + rows;
  group.levels.resize(level_widths_.size());
  sum_cells(chunk.weights + begin * chunk.stride, rows, chunk.stride, keys, level_widths_[0],
            group.levels[0]);
  for (std::size_t level = 1; level < level_widths_.size(); ++level)
    sum_cells(group.levels[finer_[level]], level_widths_[level], group.levels[level]);
  group.counts.assign(shapes_.size(), {});
  for (std::size_t shape = 0; shape < shapes_.size(); ++shape) {
    BlockCounts& counts = group.counts[shape];
    for (auto* list : {&counts.blocks, &counts.elements, &counts.elements_second_half})
      list->assign(thresholds_.size() + 1, 0);
    for (std::int64_t at = 0; at < rows; at += shapes_[shape].q) {
      const std::int64_t block_rows = std::min(shapes_[shape].q, rows - at);
      sort_blocks(group.levels[level_of_[shape]], at, block_rows, group);
      count_blocks({.first_row = first_row + at, .rows = block_rows, .window = chunk.window},
                   shapes_[shape].k, group, counts);
      finish_rows(begin + at, block_rows, shape, group);
    }
  }
}

// Mass and loss of the block row [begin, begin + rows) of a group, by the thresholds its blocks reach.
void BlockSweep::sort_blocks(const WeightCells& cells, std::int64_t begin, std::int64_t rows,
                             Group& group) const {
  group.block_max.assign(static_cast<std::size_t>(cells.cells), 0);
  for (std::int64_t row = begin; row < begin + rows; ++row) {
    const float* max = cells.max.data() + row * cells.cells;
    float* block_max = group.block_max.data();
    for (std::int64_t i = 0; i < cells.cells; ++i)
      block_max[i] = max[i] > block_max[i] ? max[i] : block_max[i];
  }
  group.reached.assign(static_cast<std::size_t>(cells.cells), 0);
  for (const float threshold : thresholds_) {
    for (std::int64_t i = 0; i < cells.cells; ++i)
      group.reached[i] =
          static_cast<std::uint8_t>(group.reached[i] + (group.block_max[i] >= threshold ? 1 : 0));
  }
  const std::int64_t bins = static_cast<std::int64_t>(thresholds_.size()) + 1;
  group.mass.assign(static_cast<std::size_t>(rows * bins), 0);
  group.loss.assign(static_cast<std::size_t>(rows * bins), 0);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = (begin + row) * cells.cells;
    double *mass = group.mass.data() + row * bins, *loss = group.loss.data() + row * bins;
    for (std::int64_t i = 0; i < cells.cells; ++i) {
      mass[group.reached[i]] += cells.mass[at + i];
      loss[group.reached[i]] += cells.loss[at + i];
    }
  }
}

// `queries` are those of one block row; its weights are not read.
void BlockSweep::count_blocks(const WeightChunk& queries, std::int64_t k, const Group& group,
                              BlockCounts& counts) const {
  const std::int64_t first_row = queries.first_row, rows = queries.rows, end_row = first_row + rows;
  const std::int64_t late_rows = std::clamp<std::int64_t>(end_row - second_half_, 0, rows);
  for (std::int64_t i = queries.first_key(first_row) / k; i * k < end_row; ++i) {
    const std::size_t bin = group.reached[i];
    const std::int64_t first_key = i * k, end_key = first_key + k;
    ++counts.blocks[bin];
    if (end_key <= first_row + 1 && first_key >= queries.first_key(end_row - 1)) {  // all queries see all
      counts.elements[bin] += rows * k;
      counts.elements_second_half[bin] += late_rows * k;
      continue;
    }
    for (std::int64_t row = first_row; row < end_row; ++row) {
      const std::int64_t begin = std::max(first_key, queries.first_key(row));
      const std::int64_t seen = std::max<std::int64_t>(0, std::min(row + 1, end_key) - begin);
      counts.elements[bin] += seen;
      if (row >= second_half_) counts.elements_second_half[bin] += seen;
    }
  }
}

void BlockSweep::finish_rows(std::int64_t first_place, std::int64_t rows, std::size_t shape,
                             const Group& group) {
  const std::size_t thresholds = thresholds_.size();
  for (std::int64_t row = 0; row < rows; ++row) {
    const double* mass = group.mass.data() + row * static_cast<std::int64_t>(thresholds + 1);
    const double* loss = group.loss.data() + row * static_cast<std::int64_t>(thresholds + 1);
    const std::size_t at =
        (static_cast<std::size_t>(first_place + row) * shapes_.size() + shape) * thresholds;
    const double total = std::accumulate(mass, mass + thresholds + 1, 0.0);
    double excluded = 0, lost = 0;
    for (std::size_t i = 0; i < thresholds; ++i) {
      excluded += mass[i];
      lost += loss[i];
      // Summed from the other side: what is left of a row without any kept weight is exactly nothing.
      const double kept = std::accumulate(mass + i + 1, mass + thresholds + 1, 0.0);
      const bool empty = !(kept > 0);
      const double minus_ln_kept = std::log1p(excluded / kept);
      constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();
      result_.minus_ln_kept[at + i] = empty ? kNothing : minus_ln_kept;
      result_.kl[at + i] = empty ? kNothing : std::max(0.0, lost - kept / total * minus_ln_kept);
    }
  }
}

}  // namespace winnow
