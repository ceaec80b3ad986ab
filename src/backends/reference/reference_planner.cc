// Block planning and exact probabilities: each estimator as its definition, computed anew for every call.
#include "backends/reference/reference_planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "backends/block_choice.h"
#include "backends/reference/cache_rows.h"
#include "backends/reference/reference_ops.h"
#include "core/check.h"

namespace winnow::reference {
namespace {

using Estimates = std::vector<float>;

constexpr double kUnseen = -std::numeric_limits<double>::infinity();

// What the estimators of one head see.
struct HeadProblem {
  const BlockPlannerParams& params;
  const BlockRule& rule = params.rule;
  std::span<const std::int64_t> query_rows;
  std::vector<Vector> queries, keys;  // [queries], [cache rows] of [head_dim]
  std::int64_t dim = params.kv->head_dim;

  // The first cache row that a query of the call sees.
  std::int64_t first_row(std::int64_t query) const {
    return params.kv->window(params.window).first_row(query_rows[query]);
  }
  Vector probabilities(std::int64_t query) const {
    return reference::probabilities(queries[query].data(), keys, first_row(query), query_rows[query],
                                    double{params.scale});
  }
};

std::vector<Vector> head_queries(const MatrixView& q, std::int64_t head, std::int64_t dim) {
  std::vector<Vector> queries;
  for (std::int64_t i = 0; i < q.rows; ++i) {
    const Vector row = get_row(q, i);
    queries.emplace_back(row.begin() + head * dim, row.begin() + (head + 1) * dim);
  }
  return queries;
}

HeadProblem head_problem(const BlockPlannerParams& params, const MatrixView& q,
                         std::span<const std::int64_t> query_rows, std::int64_t head) {
  const LayerKv& kv = *params.kv;
  const std::int64_t group = static_cast<std::int64_t>(params.thresholds.size()) / kv.kv_heads;
  return {.params = params,
          .query_rows = query_rows,
          .queries = head_queries(q, head, kv.head_dim),
          .keys = cached_rows(kv, kv.k, q.dtype, head / group, kv.rows)};
}

// Adds what one query (or strided query) gives the cells of each block to the block's estimate, or raises the
// estimate to it.
void fold(const Vector& p, std::int64_t cells_per_block, BlockCriterion criterion, Vector& estimates) {
  Vector blocks(estimates.size(), 0.0);
  for (std::size_t cell = 0; cell < p.size(); ++cell) blocks[cell / cells_per_block] += p[cell];
  for (std::size_t j = 0; j < blocks.size(); ++j) {
    estimates[j] =
        criterion == BlockCriterion::kMass ? estimates[j] + blocks[j] : std::max(estimates[j], blocks[j]);
  }
}

void fold_exact(const HeadProblem& head, std::int64_t query, Vector& estimates) {
  const Vector p = head.probabilities(query);
  if (head.rule.criterion == BlockCriterion::kMass) {
    fold(p, head.rule.k_block, BlockCriterion::kMass, estimates);
    return;
  }
  for (std::size_t j = 0; j < p.size(); ++j) {
    double& estimate = estimates[j / head.rule.k_block];
    estimate = std::max(estimate, p[j]);
  }
}

// A key that stands for some of a pool's rows, and the share of the pool that these are.
struct PoolPart {
  Vector key;
  double share;
};
struct Pool {
  std::vector<PoolPart> parts;
  Vector variance;
};

// The rows among [begin, end) farthest from `mean`: `count` of them, the earlier of equal ones.
std::vector<std::int64_t> farthest_rows(const HeadProblem& head, std::int64_t begin, std::int64_t end,
                                        const Vector& mean, std::int64_t count) {
  std::vector<std::pair<double, std::int64_t>> distances;
  for (std::int64_t r = begin; r < end; ++r) {
    double distance = 0;
    for (std::int64_t d = 0; d < head.dim; ++d) {
      distance += (head.keys[r][d] - mean[d]) * (head.keys[r][d] - mean[d]);
    }
    distances.emplace_back(-distance, r);
  }
  std::sort(distances.begin(), distances.end());
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < count; ++i) rows.push_back(distances[i].second);
  return rows;
}

// A full pool's mean gives its outliers up.
void split_outliers(const HeadProblem& head, std::int64_t begin, std::int64_t end, Pool& pool) {
  const auto size = static_cast<double>(end - begin), taken = static_cast<double>(head.rule.outliers);
  if (end - begin < head.rule.pool || head.rule.outliers == 0) return;
  Vector rest = pool.parts.front().key;
  for (double& sum : rest) sum *= size;
  for (const std::int64_t row : farthest_rows(head, begin, end, pool.parts.front().key, head.rule.outliers)) {
    pool.parts.push_back({{head.keys[row].begin(), head.keys[row].end()}, 1 / size});
    for (std::int64_t d = 0; d < head.dim; ++d) rest[d] -= head.keys[row][d];
  }
  for (double& sum : rest) sum /= size - taken;
  pool.parts.front() = {std::move(rest), (size - taken) / size};
}

std::vector<Pool> pool_keys(const HeadProblem& head) {
  std::vector<Pool> pools;
  const auto rows = static_cast<std::int64_t>(head.keys.size());
  for (std::int64_t begin = 0; begin < rows; begin += head.rule.pool) {
    const std::int64_t end = std::min(rows, begin + head.rule.pool);
    Pool pool{{{Vector(static_cast<std::size_t>(head.dim)), 1.0}},
              Vector(static_cast<std::size_t>(head.dim))};
    Vector& mean = pool.parts.front().key;
    for (std::int64_t d = 0; d < head.dim; ++d) {
      for (std::int64_t r = begin; r < end; ++r) mean[d] += head.keys[r][d];
      mean[d] /= static_cast<double>(end - begin);
      for (std::int64_t r = begin; r < end; ++r) {
        pool.variance[d] += (head.keys[r][d] - mean[d]) * (head.keys[r][d] - mean[d]);
      }
      pool.variance[d] /= static_cast<double>(end - begin);
    }
    split_outliers(head, begin, end, pool);
    pools.push_back(std::move(pool));
  }
  return pools;
}

void fold_pooled(const HeadProblem& head, const std::vector<Pool>& pools, std::int64_t query,
                 Vector& estimates) {
  const std::int64_t row = head.query_rows[query], first_row = head.first_row(query);
  const Vector& q = head.queries[query];
  const double scale = head.params.scale;
  Vector p(static_cast<std::size_t>(row / head.rule.pool + 1));
  for (std::size_t i = 0; i < p.size(); ++i) {
    const std::int64_t first = static_cast<std::int64_t>(i) * head.rule.pool;
    const std::int64_t seen = std::min(first + head.rule.pool, row + 1) - std::max(first, first_row);
    if (seen <= 0) {
      p[i] = kUnseen;
      continue;
    }
    double sum = 0;
    for (const PoolPart& part : pools[i].parts) {
      sum += part.share * std::exp(scale * dot(q.data(), part.key.data(), head.dim));
    }
    p[i] = std::log(sum) + std::log(static_cast<double>(seen));
    if (!head.rule.variance) continue;
    for (std::int64_t d = 0; d < head.dim; ++d) {
      p[i] += 0.5 * scale * scale * q[d] * q[d] * pools[i].variance[d];
    }
  }
  softmax(p);
  fold(p, head.rule.k_block / head.rule.pool, head.rule.criterion, estimates);
}

// Strided query `first`: queries first..first + stride - 1, where they exist, in reverse order against rows
// in order, of every cell that one of the queries sees some of.
void fold_antidiagonal(const HeadProblem& head, std::int64_t first, Vector& estimates) {
  const std::int64_t stride = head.rule.stride;
  const auto queries = static_cast<std::int64_t>(head.queries.size());
  const auto rows = static_cast<std::int64_t>(head.keys.size());
  const std::int64_t last_row = head.query_rows[std::min(first + stride, queries) - 1];
  Vector p(static_cast<std::size_t>(last_row / stride + 1));
  for (std::size_t j = 0; j < p.size(); ++j) {
    if (static_cast<std::int64_t>(j) < head.first_row(first) / stride) {
      p[j] = kUnseen;
      continue;
    }
    for (std::int64_t r = 0; r < stride; ++r) {
      const std::int64_t query = first + stride - 1 - r, row = static_cast<std::int64_t>(j) * stride + r;
      if (query < queries && row < rows) {
        p[j] += dot(head.queries[query].data(), head.keys[row].data(), head.dim);
      }
    }
    p[j] *= head.params.scale / static_cast<double>(stride);
  }
  softmax(p);
  fold(p, head.rule.k_block / stride, head.rule.criterion, estimates);
}

std::vector<Estimates> estimates_of(const HeadProblem& head) {
  const auto queries = static_cast<std::int64_t>(head.query_rows.size());
  const std::vector<Pool> pools =
      head.rule.estimator == BlockEstimator::kPooled ? pool_keys(head) : std::vector<Pool>();
  std::vector<Estimates> result;
  for (std::int64_t block = 0; block < block_count(queries, head.rule.q_block); ++block) {
    const std::span<const std::int64_t> rows = rows_of_block(head.rule, head.query_rows, block);
    const std::int64_t first = block * head.rule.q_block, count = static_cast<std::int64_t>(rows.size());
    Vector estimates(static_cast<std::size_t>(causal_blocks(head.rule, rows)), 0.0);
    switch (head.rule.estimator) {
      case BlockEstimator::kExact:
        for (std::int64_t i = 0; i < count; ++i) fold_exact(head, first + i, estimates);
        break;
      case BlockEstimator::kPooled:
        for (std::int64_t i = 0; i < count; i = next_asked(head.rule, i, count)) {
          fold_pooled(head, pools, first + i, estimates);
        }
        break;
      case BlockEstimator::kAntidiagonal:
        for (std::int64_t i = 0; i < count; i += head.rule.stride) {
          fold_antidiagonal(head, first + i, estimates);
        }
        break;
      case BlockEstimator::kNone:
      case BlockEstimator::kVerticalSlash: check(false, "this estimator does not estimate blocks");
    }
    result.emplace_back(estimates.begin(), estimates.end());
  }
  return result;
}

// Columns (cache rows) and diagonals (distances from query to key) that one head's last queries attend to.
struct Stripes {
  std::vector<std::int64_t> columns, distances;
};

std::vector<std::int64_t> choose_stripes(const Vector& values, BlockCriterion criterion, float threshold) {
  std::vector<std::uint64_t> set(values.size() / 64 + 1);
  Chooser().add(criterion, threshold, Estimates(values.begin(), values.end()), set);
  std::vector<std::int64_t> chosen;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (contains(set, static_cast<std::int64_t>(i))) chosen.push_back(static_cast<std::int64_t>(i));
  }
  return chosen;
}

// Diagonals are counted from the farthest one, so that of equal ones the nearer is chosen.
Stripes find_stripes(const BlockPlannerParams& params, std::int64_t head) {
  const std::int64_t rows = params.kv->rows, last = params.last_q.rows;
  std::vector<std::int64_t> query_rows(static_cast<std::size_t>(last));
  std::iota(query_rows.begin(), query_rows.end(), rows - last);
  const HeadProblem problem = head_problem(params, params.last_q, query_rows, head);
  Vector columns(static_cast<std::size_t>(rows)), diagonals(static_cast<std::size_t>(rows));
  for (std::int64_t i = 0; i < last; ++i) {
    const Vector p = problem.probabilities(i);
    for (std::int64_t c = 0; c <= query_rows[i]; ++c) {
      for (double* stripe : {&columns[c], &diagonals[rows - 1 - (query_rows[i] - c)]}) {
        *stripe = params.rule.criterion == BlockCriterion::kMass ? *stripe + p[c] / static_cast<double>(last)
                                                                 : std::max(*stripe, p[c]);
      }
    }
  }
  const float threshold = params.thresholds[head];
  Stripes stripes{choose_stripes(columns, params.rule.criterion, threshold),
                  choose_stripes(diagonals, params.rule.criterion, threshold)};
  for (std::int64_t& diagonal : stripes.distances) diagonal = rows - 1 - diagonal;
  return stripes;
}

void add_stripes(const Stripes& stripes, const BlockRule& rule, std::span<const std::int64_t> rows,
                 BlockSet set) {
  for (const std::int64_t column : stripes.columns) {
    if (column <= rows.back()) insert(set, column / rule.k_block);
  }
  for (const std::int64_t distance : stripes.distances) {
    for (const std::int64_t row : rows) {
      if (row >= distance) insert(set, (row - distance) / rule.k_block);
    }
  }
}

class ReferencePlanner final : public BlockPlanner {
 public:
  explicit ReferencePlanner(const BlockPlannerParams& params) : params_(params) {
    check_planner(params_);
    if (params_.rule.estimator != BlockEstimator::kVerticalSlash) return;
    for (std::int64_t head = 0; head < heads(); ++head) stripes_.push_back(find_stripes(params_, head));
  }

  void plan(const MatrixView& q, std::span<const std::int64_t> query_rows, BlockPlan& plan) override {
    check_queries(params_, q, query_rows);
    BlockSets sets;
    sets.reset(heads(), block_count(q.rows, params_.rule.q_block),
               block_count(params_.kv->rows, params_.rule.k_block));
    for (std::int64_t head = 0; head < heads(); ++head) list_blocks(q, query_rows, head, sets);
    if (params_.rule.group_union) sets.unite(heads() / params_.kv->kv_heads);
    write_offsets(params_.rule, sets, plan);
    write_blocks(sets, 0, sets.heads() * sets.query_blocks(), plan);
    plan.means = params_.rule.mean_correction ? block_means(q.dtype) : nullptr;
  }

 private:
  std::int64_t heads() const { return static_cast<std::int64_t>(params_.thresholds.size()); }

  void list_blocks(const MatrixView& q, std::span<const std::int64_t> query_rows, std::int64_t head,
                   BlockSets& sets) {
    const BlockRule& rule = params_.rule;
    const bool estimated =
        rule.estimator != BlockEstimator::kNone && rule.estimator != BlockEstimator::kVerticalSlash;
    const std::vector<Estimates> estimates =
        estimated ? estimates_of(head_problem(params_, q, query_rows, head)) : std::vector<Estimates>();
    for (std::int64_t i = 0; i < sets.query_blocks(); ++i) {
      const std::span<const std::int64_t> rows = rows_of_block(rule, query_rows, i);
      const BlockSet set = sets.row(head, i);
      add_forced(rule, params_.dense_from_row, rows, set);
      if (estimated) Chooser().add(rule.criterion, params_.thresholds[head], estimates[i], set);
      if (!stripes_.empty()) add_stripes(stripes_[head], rule, rows, set);
      remove_unseen(params_, rows, set);
    }
  }

  // Mean key and value of every full key block, as a cache of this backend.
  std::shared_ptr<const LayerKv> block_means(DType dtype) const {
    const LayerKv& kv = *params_.kv;
    auto means = std::make_shared<LayerKv>();
    means->kv_heads = kv.kv_heads;
    means->head_dim = kv.head_dim;
    means->rows = means->capacity = kv.rows / params_.rule.k_block;
    means->positions.resize(static_cast<std::size_t>(means->rows));
    std::iota(means->positions.begin(), means->positions.end(), 0);
    means->k = mean_rows(kv.k, dtype, means->rows);
    means->v = mean_rows(kv.v, dtype, means->rows);
    return means;
  }
  Buffer mean_rows(const Buffer& rows, DType dtype, std::int64_t blocks) const {
    const LayerKv& kv = *params_.kv;
    const std::int64_t cols = kv.kv_heads * kv.head_dim, block = params_.rule.k_block;
    Buffer means = Buffer::host(dtype_bytes(dtype, blocks * cols));
    for (std::int64_t j = 0; j < blocks; ++j) {
      for (std::int64_t c = 0; c < cols; ++c) {
        double sum = 0.0;
        for (std::int64_t r = 0; r < block; ++r) {
          sum += get_element(rows.as<>(), dtype, (j * block + r) * cols + c);
        }
        set_element(means.as<>(), dtype, j * cols + c, sum / static_cast<double>(block));
      }
    }
    return means;
  }

  BlockPlannerParams params_;
  std::vector<Stripes> stripes_;  // [heads] of kVerticalSlash
};

}  // namespace

std::vector<std::vector<float>> block_estimates(const BlockPlannerParams& params, const MatrixView& q,
                                                std::span<const std::int64_t> query_rows, std::int64_t head) {
  return estimates_of(head_problem(params, q, query_rows, head));
}

void attention_probs(const AttentionProbsParams& params) {
  const LayerKv& kv = *params.kv;
  check_dtype(params.q);
  check(
      params.probs.rows == params.q.rows && params.probs.cols == kv.rows && params.probs.dtype == DType::kF32,
      "attention_probs: one float32 for each query and cache row");
  const std::int64_t group = params.q.cols / kv.head_dim / kv.kv_heads;
  const auto keys = cached_rows(kv, kv.k, params.q.dtype, params.head / group, kv.rows);
  const auto queries = head_queries(params.q, params.head, kv.head_dim);
  for (std::int64_t i = 0; i < params.q.rows; ++i) {
    const std::int64_t row = params.query_rows[i];
    Vector p = probabilities(queries[i].data(), keys, kv.window(params.window).first_row(row), row,
                             double{params.scale});
    p.resize(static_cast<std::size_t>(kv.rows), 0.0);
    set_row(params.probs, i, p);
  }
}

std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams& params) {
  return std::make_unique<ReferencePlanner>(params);
}

}  // namespace winnow::reference
