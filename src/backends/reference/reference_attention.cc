// The ops around the cache: rope_append, attention, window_scores.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "backends/reference/elements.h"
#include "backends/reference/reference_ops.h"
#include "core/check.h"

namespace winnow::reference {
namespace {

// The cache's keys or values as a matrix: one line for every cached row.
MatrixView cache_view(const LayerKv& kv, const Buffer& buffer, DType dtype) {
  return {buffer.as<>(), dtype, kv.capacity, kv.kv_heads * kv.head_dim};
}

// Rotates one head in place: pairs (i, i + rotary_dim / 2) by the angle of `position`. The rest passes
// through.
void rotate(const RopeTable& rope, std::int32_t position, double* head) {
  const std::int64_t half = rope.rotary_dim / 2;
  check(rope.rotary_dim == 0 || (position >= 0 && position < rope.positions),
        "rope: the table has the position");
  for (std::int64_t i = 0; i < half; ++i) {
    const double cos = rope.cos.as<float>()[position * half + i];
    const double sin = rope.sin.as<float>()[position * half + i];
    const double first = head[i], second = head[half + i];
    head[i] = first * cos - second * sin;
    head[half + i] = second * cos + first * sin;
  }
}

double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Rows 0..row of the cache's keys (or values) of one kv head, as [row + 1][head_dim].
std::vector<std::vector<double>> head_rows(const LayerKv& kv, const Buffer& buffer, DType dtype,
                                           std::int64_t kv_head, std::int64_t rows) {
  const MatrixView view = cache_view(kv, buffer, dtype);
  std::vector<std::vector<double>> result(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r) {
    result[r].resize(static_cast<std::size_t>(kv.head_dim));
    for (std::int64_t d = 0; d < kv.head_dim; ++d) {
      result[r][d] = get_element(view.row<void>(r), dtype, kv_head * kv.head_dim + d);
    }
  }
  return result;
}

// softmax(scale * q . k) over cache rows 0..row.
std::vector<double> probabilities(const double* q, const std::vector<std::vector<double>>& keys,
                                  std::int64_t row, double scale) {
  std::vector<double> p(static_cast<std::size_t>(row + 1));
  for (std::int64_t j = 0; j <= row; ++j) {
    p[j] = scale * dot(q, keys[j].data(), static_cast<std::int64_t>(keys[j].size()));
  }
  const double highest = *std::max_element(p.begin(), p.end());
  double sum = 0.0;
  for (double& value : p) sum += value = std::exp(value - highest);
  for (double& value : p) value /= sum;
  return p;
}

std::int64_t check_heads(const MatrixView& q, const LayerKv& kv) {
  check_dtype(q);
  const std::int64_t heads = q.cols / kv.head_dim;
  check(heads * kv.head_dim == q.cols && heads % kv.kv_heads == 0, "q has a multiple of kv_heads heads");
  return heads;
}

}  // namespace

void rope_append(const RopeAppendParams& params) {
  LayerKv& kv = *params.kv;
  const std::int64_t heads = check_heads(params.q, kv);
  const std::int64_t rows = params.qkv.rows, dim = kv.head_dim;
  check(params.qkv.cols == (heads + 2 * kv.kv_heads) * dim, "rope_append: a row is q | k | v");
  check(params.q.rows == rows && static_cast<std::int64_t>(params.positions.size()) == rows,
        "rope_append: one position and one q for every row");
  check(kv.rows + rows <= kv.capacity, "rope_append: the cache has room");
  check(params.rope->rotary_dim <= dim, "rope_append: rotary_dim fits the head");
  const MatrixView k = cache_view(kv, kv.k, params.qkv.dtype);
  const MatrixView v = cache_view(kv, kv.v, params.qkv.dtype);
  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<double> values = get_row(params.qkv, r);
    for (std::int64_t h = 0; h < heads + kv.kv_heads; ++h) {
      rotate(*params.rope, params.positions[r], &values[h * dim]);
    }
    const auto k_begin = values.begin() + heads * dim;
    const auto v_begin = k_begin + kv.kv_heads * dim;
    set_row(params.q, r, {values.begin(), k_begin});
    set_row(k, kv.rows + r, {k_begin, v_begin});
    set_row(v, kv.rows + r, {v_begin, values.end()});
  }
  kv.positions.insert(kv.positions.end(), params.positions.begin(), params.positions.end());
  kv.rows += rows;
}

void attention(const AttentionParams& params) {
  const LayerKv& kv = *params.kv;
  const std::int64_t heads = check_heads(params.q, kv), dim = kv.head_dim;
  check(static_cast<std::int64_t>(params.query_rows.size()) == params.q.rows,
        "attention: a cache row per query");
  check(params.out.rows == params.q.rows && params.out.cols == params.q.cols,
        "attention: out is shaped as q");
  for (std::int64_t i = 0; i < params.q.rows; ++i) {
    check(params.query_rows[i] >= 0 && params.query_rows[i] < kv.rows,
          "attention: a query sits in the cache");
    check(i == 0 || params.query_rows[i - 1] < params.query_rows[i], "attention: query_rows ascend strictly");
  }
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int64_t kv_head = h / (heads / kv.kv_heads);
    const auto keys = head_rows(kv, kv.k, params.q.dtype, kv_head, kv.rows);
    const auto values = head_rows(kv, kv.v, params.q.dtype, kv_head, kv.rows);
    for (std::int64_t i = 0; i < params.q.rows; ++i) {
      const std::vector<double> q = get_row(params.q, i);
      const auto p = probabilities(&q[h * dim], keys, params.query_rows[i], params.scale);
      for (std::int64_t d = 0; d < dim; ++d) {
        double sum = 0.0;
        for (std::size_t j = 0; j < p.size(); ++j) sum += p[j] * values[j][d];
        set_element(params.out.row<void>(i), params.out.dtype, h * dim + d, sum);
      }
    }
  }
}

void window_scores(const WindowScoresParams& params) {
  const LayerKv& kv = *params.kv;
  const std::int64_t heads = check_heads(params.q, kv), window = params.q.rows;
  check(window >= 1 && window <= kv.rows, "window_scores: the window lies in the cache");
  check(static_cast<std::int64_t>(params.scores.size()) == kv.rows,
        "window_scores: one score per cached row");
  std::vector<double> scores(static_cast<std::size_t>(kv.rows), 0.0);
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto keys = head_rows(kv, kv.k, params.q.dtype, h / (heads / kv.kv_heads), kv.rows);
    std::vector<double> head_scores(static_cast<std::size_t>(kv.rows), 0.0);  // mean over the queries
    for (std::int64_t i = 0; i < window; ++i) {
      const std::vector<double> q = get_row(params.q, i);
      const auto p = probabilities(&q[h * kv.head_dim], keys, kv.rows - window + i, params.scale);
      for (std::size_t j = 0; j < p.size(); ++j) head_scores[j] += p[j] / static_cast<double>(window);
    }
    for (std::int64_t j = 0; j < kv.rows; ++j) {
      const bool max = params.reduction == HeadReduction::kMax;
      scores[j] =
          max ? std::max(scores[j], head_scores[j]) : scores[j] + head_scores[j] / static_cast<double>(heads);
    }
  }
  for (std::int64_t j = 0; j < kv.rows; ++j) params.scores[j] = static_cast<float>(scores[j]);
}

}  // namespace winnow::reference
