// BlockEstimator::kPooled: the softmax of a query over the mean keys of pools. A pool's logit is
//   scale q.mean + ln(rows of it that the query sees) [+ scale^2 / 2 sum_d q_d^2 var_d],
// the mean of e^(scale q.k) over normally distributed keys of diagonal covariance: pools weigh as much as
// their rows do together. With outliers a pool has several such terms, which share its weight (PoolColumns).
#include <algorithm>
#include <cmath>

#include "backends/cpu/plan_kernels.h"
#include "backends/cpu/pooled_keys.h"
#include "backends/cpu/tile_lister.h"

namespace winnow::cpu {
namespace {

class PooledLister final : public TileLister {
 public:
  explicit PooledLister(const ListerParams& params)
      : TileLister(params, 2 * params.heads.padded_dim),
        keys_(*params.params.kv, params.heads, rule(), params.threads) {
    for (std::int64_t seen = 1; seen <= rule().pool; ++seen) {
      log_shares_.push_back(std::log(static_cast<float>(seen) / static_cast<float>(rule().pool)));
    }
  }

 private:
  void extend_keys() override { keys_.extend(); }
  bool adds_scores() const override { return rule().variance; }
  std::int64_t next_sample(std::int64_t i, std::int64_t queries) const override {
    return next_asked(rule(), i, queries);
  }
  std::int64_t gather(const PlanCall& call, std::int64_t query, std::int64_t head, Scratch& scratch,
                      std::int64_t slot) const override {
    p_.heads.copy_query(call.q, query, head,
                        scratch.q.as<>() + slot * p_.heads.padded_dim * p_.heads.element_bytes);
    return call.query_rows[query];
  }
  std::int64_t columns(std::int64_t row) const override { return (keys_.columns_up_to(row) + 31) / 32 * 32; }
  std::int64_t first_column(std::int64_t row) const override {
    return keys_.group_of(row) * keys_.columns().group() / 32 * 32;
  }

  void score(std::int64_t kv_head, std::int64_t first, std::int64_t end, Scratch& scratch) const override {
    const std::int64_t dim = p_.heads.padded_dim, row_bytes = dim * p_.heads.element_bytes;
    p_.kernels.scores(scratch.q.as<>(), keys_.means(kv_head) + first * row_bytes, dim, end - first,
                      scratch.s.as<float>() + first, s_stride_);
    if (!rule().variance) return;
    std::byte* squares = scratch.q.as<>() + kTileQueries * row_bytes;
    float* more = scratch.more.as<float>() + first;
    square(p_.heads.dtype, scratch.q.as<>(), kTileQueries * dim, squares);
    p_.kernels.scores(squares, keys_.variances(kv_head) + first * row_bytes, dim, end - first, more,
                      s_stride_);
    for (std::size_t i = 0; i < scratch.tile.size(); ++i) {
      add_scaled(scores_of(scratch, i) + first, more + static_cast<std::int64_t>(i) * s_stride_,
                 0.5f * p_.params.scale, end - first);
    }
  }

  // The scores begin with the group in which what the sample sees begins.
  PooledScores scores_of_sample(Scratch& scratch, std::size_t slot) const {
    const Sample& sample = scratch.tile[slot];
    const std::int64_t pool = rule().pool, group = keys_.group_of(sample.first);
    const std::int64_t before = group * kKeyBlock * keys_.columns().pools_per_block;
    const std::int64_t first_pool = sample.first / pool, own_pool = sample.row / pool;
    const std::int64_t of_first = std::min(sample.row + 1, (first_pool + 1) * pool) - sample.first;
    return {.s = scores_of(scratch, slot) + group * keys_.columns().group(),
            .estimates = estimates_of(scratch, slot) + group * kKeyBlock,
            .first_pool = first_pool - before,
            .own_pool = own_pool - before,
            .first_log_share = log_shares_[of_first - 1],
            .own_log_share = first_pool == own_pool ? 0.0f : log_shares_[sample.row % pool]};
  }

  void fold(Scratch& scratch) const override {
    PooledScores scores[kFoldRows];
    for (std::size_t first = 0; first < scratch.tile.size(); first += kFoldRows) {
      const std::size_t count = std::min(kFoldRows, scratch.tile.size() - first);
      for (std::size_t i = 0; i < count; ++i) {
        scores[i] = scores_of_sample(scratch, first + i);
      }
      fold_pools({scores, count}, keys_.columns(), p_.params.scale, rule().criterion);
    }
  }

  PooledKeys keys_;
  std::vector<float> log_shares_;  // [pool] ln(seen / pool), for 1 row seen and more
};

}  // namespace

std::unique_ptr<BlockLister> make_pooled_lister(const ListerParams& params) {
  return std::make_unique<PooledLister>(params);
}

}  // namespace winnow::cpu
