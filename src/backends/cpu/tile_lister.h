// TileLister: what the estimators share that ask queries (or strided ones) one by one. The samples of
// consecutive query blocks are gathered in tiles of kTileQueries and scored by one product each; every row of
// scores is folded into the estimates of its query block, among which the Chooser chooses.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/block_choice.h"
#include "backends/cpu/block_lister.h"

namespace winnow::cpu {

class TileLister : public BlockLister {
 public:
  void extend() final;
  void list(const PlanCall& call, std::int64_t head, std::int64_t begin, std::int64_t end, int thread,
            BlockSets& sets) final;

 protected:
  struct Sample {
    std::int64_t first, row;  // the first and the last cache row it sees
    std::int64_t block;       // its query block, counted from the task's first
  };
  // A thread's working memory.
  struct Scratch {
    Buffer q;        // a tile of samples, compute dtype
    Buffer s, more;  // [kTileQueries, s_stride] float32 each
    Buffer cells;    // [s_stride] float32
    std::vector<Sample> tile;
    std::vector<float> estimates;  // [query blocks of the task, estimate_stride]
    Chooser chooser;
  };

  // `sample_elements` of a sample in Scratch::q.
  TileLister(const ListerParams& params, std::int64_t sample_elements);

  const BlockRule& rule() const { return p_.params.rule; }

  // Follows the cache.
  virtual void extend_keys() {}
  // Whether score() needs Scratch::more.
  virtual bool adds_scores() const { return false; }
  // The query of a block of `queries` at which the sample after the one at query `i` begins; at least
  // `queries` at the end.
  virtual std::int64_t next_sample(std::int64_t i, std::int64_t queries) const = 0;
  // Writes the sample that begins at query `query` of the call; returns the last cache row it sees.
  virtual std::int64_t gather(const PlanCall& call, std::int64_t query, std::int64_t head, Scratch& scratch,
                              std::int64_t slot) const = 0;
  // How many columns of scores hold all that a sample sees whose last row is `row`; a multiple of 32.
  virtual std::int64_t columns(std::int64_t row) const = 0;
  // A column, a multiple of 32, that all of a sample's lie at or behind whose first row is `row`.
  virtual std::int64_t first_column(std::int64_t row) const = 0;
  // Fills columns [first, end) of scratch.s [kTileQueries, s_stride] for the tile.
  virtual void score(std::int64_t kv_head, std::int64_t first, std::int64_t end, Scratch& scratch) const = 0;
  // Folds the tile's rows of scores, which it may overwrite, into the estimates of their blocks.
  virtual void fold(Scratch& scratch) const = 0;

  float* scores_of(const Scratch& scratch, std::size_t slot) const {
    return scratch.s.as<float>() + static_cast<std::int64_t>(slot) * s_stride_;
  }
  // [key blocks, rounded up to 16]
  float* estimates_of(Scratch& scratch, std::size_t slot) const {
    return scratch.estimates.data() + scratch.tile[slot].block * estimate_stride_;
  }

  ListerParams p_;
  std::int64_t s_stride_ = 0;

 private:
  void fold_tile(std::int64_t kv_head, Scratch& scratch) const;

  std::int64_t estimate_stride_ = 0;
  std::vector<Scratch> scratch_;  // [threads]
};

// Turns `s` into probabilities of cells [begin, end) and folds these into the estimates of blocks of
// `cells_per_block`: sums of a block's cells, or the largest cell for `largest`. `cells` is working memory.
struct CellFold {
  std::int64_t cells_per_block;
  BlockCriterion criterion;
  bool largest;
  float scale;
};
void fold_cells(float* s, std::int64_t begin, std::int64_t end, const CellFold& how, float* cells,
                float* estimates);

}  // namespace winnow::cpu
