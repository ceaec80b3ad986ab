// BlockEstimator::kVerticalSlash: MInference's pattern (arXiv 2407.02490) with FlexPrefill's choice of its
// size (arXiv 2502.20766). The attention of the turn's last queries says which cache rows (columns) and which
// distances from query to key (diagonals) matter; blocks that hold one of them are listed for every query.
#include <algorithm>
#include <vector>

#include "backends/cpu/block_lister.h"
#include "backends/cpu/parallel_tasks.h"
#include "backends/cpu/row_scores.h"
#include "backends/cpu/window_softmax.h"

namespace winnow::cpu {
namespace {

class VerticalSlashLister final : public BlockLister {
 public:
  explicit VerticalSlashLister(const ListerParams& params);

  void list(const PlanCall& call, std::int64_t head, std::int64_t begin, std::int64_t end, int thread,
            BlockSets& sets) override;

 private:
  // What one head's last queries attend to.
  struct Stripes {
    std::vector<std::uint64_t> column_blocks;   // key blocks that hold a chosen column, as a BlockSet
    std::vector<std::int32_t> diagonals_below;  // [rows + 1] how many distances below this one are chosen
  };

  void find_stripes(std::int64_t head, RowScores& s);
  void add_diagonals(const Stripes& stripes, std::int64_t first, std::int64_t last, BlockSet set) const;

  ListerParams p_;
  std::int64_t rows_;             // of the cache when the last queries were asked
  std::vector<Stripes> stripes_;  // [heads]
};

VerticalSlashLister::VerticalSlashLister(const ListerParams& params)
    : p_(params), rows_(params.params.kv->rows), stripes_(static_cast<std::size_t>(params.heads.heads)) {
  std::vector<RowScores> s;
  for (int thread = 0; thread < p_.threads; ++thread) s.emplace_back(p_.heads, rows_);
  parallel_tasks(p_.threads, p_.heads.heads, p_.kernels,
                 [&](std::int64_t head, int thread) { find_stripes(head, s[thread]); });
}

std::vector<std::uint64_t> choose(const ListerParams& p, std::int64_t head, std::span<const float> values) {
  std::vector<std::uint64_t> set(values.size() / 64 + 1);
  Chooser().add(p.params.rule.criterion, p.params.thresholds[head], values, set);
  return set;
}

// Adds values to sums, or raises the sums to them.
void merge(BlockCriterion criterion, std::span<const float> values, float* sums) {
  if (criterion == BlockCriterion::kMass) {
    for (std::size_t i = 0; i < values.size(); ++i) sums[i] += values[i];
  } else {
    for (std::size_t i = 0; i < values.size(); ++i) sums[i] = std::max(sums[i], values[i]);
  }
}

void VerticalSlashLister::find_stripes(std::int64_t head, RowScores& s) {
  const BlockRule& rule = p_.params.rule;
  const MatrixView& q = p_.params.last_q;
  const SlidingWindow window = p_.params.kv->window(p_.params.window);
  // Diagonals are counted from the farthest one, so that of equal ones the nearer is chosen.
  std::vector<float> columns(static_cast<std::size_t>(rows_)), diagonals = columns, p = columns;
  const float weight = rule.criterion == BlockCriterion::kMass ? 1.0f / static_cast<float>(q.rows) : 1.0f;
  for (std::int64_t begin = 0; begin < q.rows; begin += kTileQueries) {
    const std::int64_t count = std::min(kTileQueries, q.rows - begin);
    s.compute(p_.kernels, *p_.params.kv, q, head, begin, count, window.first_row(rows_ - q.rows + begin),
              rows_ - q.rows + begin + count);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t behind = q.rows - 1 - (begin + i), seen = rows_ - behind;
      std::fill(p.begin(), p.end(), 0.0f);
      const std::int64_t first = window.first_row(seen - 1);
      add_softmax(s.row(i) + first, seen - first, p_.params.scale, weight, p.data() + first);
      merge(rule.criterion, std::span(p).first(static_cast<std::size_t>(seen)), columns.data());
      merge(rule.criterion, std::span(p).first(static_cast<std::size_t>(seen)), diagonals.data() + behind);
    }
  }
  Stripes& stripes = stripes_[head];
  const std::vector<std::uint64_t> chosen = choose(p_, head, columns);
  stripes.column_blocks.resize(static_cast<std::size_t>(block_count(rows_, rule.k_block) / 64 + 1));
  for (std::int64_t row = 0; row < rows_; ++row) {
    if (contains(chosen, row)) insert(stripes.column_blocks, row / rule.k_block);
  }
  const std::vector<std::uint64_t> slashes = choose(p_, head, diagonals);
  stripes.diagonals_below.push_back(0);
  for (std::int64_t distance = 0; distance < rows_; ++distance) {
    stripes.diagonals_below.push_back(stripes.diagonals_below.back() +
                                      (contains(slashes, rows_ - 1 - distance) ? 1 : 0));
  }
}

// Queries at cache rows first..last: a block of keys is met by all distances from its last row to the first
// query up to its first row to the last query.
void VerticalSlashLister::add_diagonals(const Stripes& stripes, std::int64_t first, std::int64_t last,
                                        BlockSet set) const {
  const std::int64_t k_block = p_.params.rule.k_block;
  const auto below = [&](std::int64_t distance) {
    return stripes.diagonals_below[std::clamp<std::int64_t>(distance, 0, rows_)];
  };
  for (std::int64_t block = 0; block * k_block <= last; ++block) {
    const std::int64_t nearest = first - ((block + 1) * k_block - 1), farthest = last - block * k_block;
    if (below(farthest + 1) > below(nearest)) insert(set, block);
  }
}

void VerticalSlashLister::list(const PlanCall& call, std::int64_t head, std::int64_t begin, std::int64_t end,
                               int, BlockSets& sets) {
  const BlockRule& rule = p_.params.rule;
  const Stripes& stripes = stripes_[head];
  for (std::int64_t i = begin; i < end; ++i) {
    const std::span<const std::int64_t> rows = rows_of_block(rule, call.query_rows, i);
    const BlockSet set = sets.row(head, i);
    // The block of the last row itself is forced, so whole blocks of columns are right.
    const std::int64_t causal = causal_blocks(rule, rows);
    for (std::int64_t block = 0; block < causal; block += 64) {
      if (static_cast<std::size_t>(block / 64) == stripes.column_blocks.size()) break;
      const std::int64_t left = causal - block;
      const std::uint64_t seen = left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
      set[block / 64] |= stripes.column_blocks[block / 64] & seen;
    }
    for (std::size_t run = 0, next = 1; run < rows.size(); run = next++) {  // of consecutive rows
      while (next < rows.size() && rows[next] == rows[next - 1] + 1) ++next;
      add_diagonals(stripes, rows[run], rows[next - 1], set);
    }
  }
}

}  // namespace

std::unique_ptr<BlockLister> make_vertical_slash_lister(const ListerParams& params) {
  return std::make_unique<VerticalSlashLister>(params);
}

}  // namespace winnow::cpu
