// BlockEstimator::kExact: the probabilities themselves. As much work as attention; for analysis.
#include "backends/cpu/tile_lister.h"

namespace winnow::cpu {
namespace {

class ExactLister final : public TileLister {
 public:
  explicit ExactLister(const ListerParams& params) : TileLister(params, params.heads.padded_dim) {}

 private:
  std::int64_t next_sample(std::int64_t i, std::int64_t) const override { return i + 1; }
  std::int64_t gather(const PlanCall& call, std::int64_t query, std::int64_t head, Scratch& scratch,
                      std::int64_t slot) const override {
    p_.heads.copy_query(call.q, query, head,
                        scratch.q.as<>() + slot * p_.heads.padded_dim * p_.heads.element_bytes);
    return call.query_rows[query];
  }
  std::int64_t columns(std::int64_t row) const override { return row / 32 * 32 + 32; }
  std::int64_t first_column(std::int64_t row) const override { return row / 32 * 32; }
  void score(std::int64_t kv_head, std::int64_t first, std::int64_t end, Scratch& scratch) const override {
    p_.kernels.scores(scratch.q.as<>(), p_.heads.keys(*p_.params.kv, kv_head, first), p_.heads.padded_dim,
                      end - first, scratch.s.as<float>() + first, s_stride_);
  }
  void fold(Scratch& scratch) const override {
    const CellFold how{.cells_per_block = rule().k_block,
                       .criterion = rule().criterion,
                       .largest = rule().criterion == BlockCriterion::kMaximum,
                       .scale = p_.params.scale};
    for (std::size_t i = 0; i < scratch.tile.size(); ++i) {
      fold_cells(scores_of(scratch, i), scratch.tile[i].first, scratch.tile[i].row + 1, how,
                 scratch.cells.as<float>(), estimates_of(scratch, i));
    }
  }
};

}  // namespace

std::unique_ptr<BlockLister> make_exact_lister(const ListerParams& params) {
  return std::make_unique<ExactLister>(params);
}

}  // namespace winnow::cpu
