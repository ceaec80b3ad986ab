#include "backends/cpu/tile_lister.h"

#include <algorithm>
#include <cstring>

#include "backends/cpu/window_softmax.h"

namespace winnow::cpu {
namespace {

// Rows of scores that begin 4 KiB apart would share cache sets.
constexpr std::int64_t kStridePad = 16;

}  // namespace

TileLister::TileLister(const ListerParams& params, std::int64_t sample_elements) : p_(params) {
  scratch_.resize(static_cast<std::size_t>(params.threads));
  for (Scratch& scratch : scratch_) {
    scratch.q = Buffer::host(kTileQueries * sample_elements * p_.heads.element_bytes);
    // Padded dimensions and rows without a sample stay zero, or what an earlier tile left.
    std::memset(scratch.q.as<>(), 0, static_cast<std::size_t>(scratch.q.bytes()));
    scratch.tile.reserve(kTileQueries);
  }
}

void TileLister::extend() {
  extend_keys();
  const LayerKv& kv = *p_.params.kv;
  // Apart from the scores' stride, which may stay when this one grows.
  estimate_stride_ = std::max(estimate_stride_, (block_count(kv.capacity, rule().k_block) + 15) / 16 * 16);
  const std::int64_t stride = columns(std::max<std::int64_t>(kv.capacity, 1) - 1) + kStridePad;
  if (stride <= s_stride_) return;
  s_stride_ = stride;
  for (Scratch& scratch : scratch_) {
    scratch.s = Buffer::host(kTileQueries * stride * 4);
    if (adds_scores()) scratch.more = Buffer::host(kTileQueries * stride * 4);
    scratch.cells = Buffer::host(stride * 4);
  }
}

void TileLister::list(const PlanCall& call, std::int64_t head, std::int64_t begin, std::int64_t end,
                      int thread, BlockSets& sets) {
  Scratch& scratch = scratch_[thread];
  scratch.estimates.assign(static_cast<std::size_t>((end - begin) * estimate_stride_), 0.0f);
  scratch.tile.clear();
  for (std::int64_t block = begin; block < end; ++block) {
    const auto queries = static_cast<std::int64_t>(rows_of_block(rule(), call.query_rows, block).size());
    for (std::int64_t i = 0; i < queries; i = next_sample(i, queries)) {
      const auto slot = static_cast<std::int64_t>(scratch.tile.size());
      const std::int64_t row = gather(call, block * rule().q_block + i, head, scratch, slot);
      const std::int64_t first =
          p_.params.kv->window(p_.params.window).first_row(call.query_rows[block * rule().q_block + i]);
      scratch.tile.push_back({first, row, block - begin});
      if (slot + 1 == kTileQueries) fold_tile(head / p_.heads.group, scratch);
    }
  }
  fold_tile(head / p_.heads.group, scratch);
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t causal = causal_blocks(rule(), rows_of_block(rule(), call.query_rows, block));
    scratch.chooser.add(
        rule().criterion, p_.params.thresholds[head],
        {scratch.estimates.data() + (block - begin) * estimate_stride_, static_cast<std::size_t>(causal)},
        sets.row(head, block));
  }
}

void TileLister::fold_tile(std::int64_t kv_head, Scratch& scratch) const {
  if (scratch.tile.empty()) return;
  score(kv_head, first_column(scratch.tile.front().first), columns(scratch.tile.back().row), scratch);
  fold(scratch);
  scratch.tile.clear();
}

void fold_cells(float* s, std::int64_t begin, std::int64_t end, const CellFold& how, float* cells,
                float* estimates) {
  std::fill(cells + begin, cells + end, 0.0f);
  add_softmax(s + begin, end - begin, how.scale, 1.0f, cells + begin);
  for (std::int64_t block = begin / how.cells_per_block; block * how.cells_per_block < end; ++block) {
    float value = 0;
    for (std::int64_t i = std::max(begin, block * how.cells_per_block);
         i < std::min(end, (block + 1) * how.cells_per_block); ++i) {
      value = how.largest ? std::max(value, cells[i]) : value + cells[i];
    }
    float& estimate = estimates[block];
    estimate = how.criterion == BlockCriterion::kMass ? estimate + value : std::max(estimate, value);
  }
}

}  // namespace winnow::cpu
