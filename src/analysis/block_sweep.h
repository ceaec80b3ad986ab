// BlockSweep: what excluding blocks of attention would leave out, for many block shapes and thresholds in one
// pass over the weights. Works on one head's queries of one chunk at a time and knows nothing of models.
//
// A block is excluded when its largest weight is under the threshold. What is left of a row is renormalised
// over the whole row, q = p / sum of the kept p. (Renormalising every block by itself instead makes each of
// them a distribution of its own, and a row's KL grows with their number.) The row's KL divergence
//   KL(p || q) = sum over all keys of p (ln p - ln q),  p and q at least 1e-12,  at least 0
// is then kept ln kept + the exclusion_loss() of what was excluded, up to the clamp: a sum over blocks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "analysis/block_shape.h"
#include "analysis/weight_cells.h"

namespace winnow {

// One head's weights for the queries at rows [first_row, first_row + rows) of a prompt read from its start.
struct WeightChunk {
  const float* weights = nullptr;  // [rows, stride]; weights of keys that a query does not see are 0
  std::int64_t stride = 0;         // at least first_row + rows
  std::int64_t first_row = 0, rows = 0;
  std::int64_t window = 0;  // keys that a query sees, its own the last; 0: all up to its own

  std::int64_t first_key(std::int64_t row) const {
    return window == 0 ? 0 : std::max<std::int64_t>(0, row + 1 - window);
  }
};

// Blocks with any element that a query sees, and these elements, by how many of the thresholds their largest
// weight reaches: [0] is excluded at all of them, [thresholds] at none.
struct BlockCounts {
  std::vector<std::int64_t> blocks, elements, elements_second_half;  // [thresholds + 1]

  void add(const BlockCounts& other);
};

struct ChunkSweep {
  // [rows, shapes, thresholds]; NaN where nothing is left of the row.
  std::vector<double> kl, minus_ln_kept;
  std::vector<BlockCounts> counts;  // [shapes]
};

class BlockSweep {
 public:
  // `thresholds` ascend strictly. Queries from `second_half` on belong to the prompt's second half.
  BlockSweep(std::vector<BlockShape> shapes, std::vector<float> thresholds, std::int64_t second_half);

  // first_row is a multiple of every shape's q. The result lives until the next call.
  const ChunkSweep& sweep(const WeightChunk& chunk);

  const std::vector<BlockShape>& shapes() const { return shapes_; }
  const std::vector<float>& thresholds() const { return thresholds_; }

 private:
  // Rows that no block connects with others: one thread's work.
  struct Group {
    std::vector<WeightCells> levels;    // as level_widths_
    std::vector<std::uint8_t> reached;  // [key blocks] thresholds that a block's largest weight reaches
    std::vector<float> block_max;       // [key blocks]
    std::vector<double> mass, loss;     // [rows, thresholds + 1] of the blocks, by thresholds reached
    std::vector<BlockCounts> counts;    // [shapes]
  };

  void sweep_group(const WeightChunk& chunk, std::int64_t begin, std::int64_t rows, Group& group);
  void sort_blocks(const WeightCells& cells, std::int64_t begin, std::int64_t rows, Group& group) const;
  void count_blocks(const WeightChunk& queries, std::int64_t k, const Group& group,
                    BlockCounts& counts) const;
  void finish_rows(std::int64_t first_place, std::int64_t rows, std::size_t shape, const Group& group);

  std::vector<BlockShape> shapes_;
  std::vector<float> thresholds_;
  std::int64_t second_half_;
  std::int64_t group_rows_;
  std::vector<std::int64_t> level_widths_;  // ascending; every shape's k is among them
  std::vector<std::size_t> finer_;          // [levels] the level each is made of; the first of the weights
  std::vector<std::size_t> level_of_;       // [shapes]
  std::vector<Group> groups_;
  ChunkSweep result_;
};

}  // namespace winnow
