// The ops around the cache: rope_append, attention, window_scores.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "backends/reference/cache_rows.h"
#include "backends/reference/elements.h"
#include "backends/reference/reference_ops.h"
#include "core/check.h"
#include "core/higher.h"

namespace winnow::reference {
namespace {

// The cache's keys or values as a matrix: one line for every cached row.
MatrixView cache_view(const LayerKv& kv, const Buffer& buffer, DType dtype) {
  return {buffer.as<>(), stored_dtype(kv, dtype), kv.capacity, kv.kv_heads * kv.head_dim};
}

// What KvType::kQ8 keeps of `count` values.
void round_to_q8(double* values, std::int64_t count) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i)
    largest = std::max(largest, std::abs(static_cast<float>(values[i])));
  BF16 scale = to_bf16(largest / 127.0f);
  if (to_float(scale) < largest / 127.0f) ++scale.bits;
  for (std::int64_t i = 0; i < count; ++i) {
    const float steps = scale.bits == 0 ? 0.0f : static_cast<float>(values[i]) / to_float(scale);
    values[i] = std::nearbyint(steps) * to_float(scale);
  }
}

void append_row(const LayerKv& kv, std::int64_t row, DType compute, std::vector<double> keys,
                std::vector<double> values) {
  if (kv.type == KvType::kQ8) {
    for (std::vector<double>* part : {&keys, &values}) {
      for (double& value : *part) {  // rounded from what another cache would hold
        value = compute == DType::kBF16 ? to_float(to_bf16(static_cast<float>(value)))
                                        : static_cast<float>(value);
      }
    }
    for (std::int64_t first = 0; first < kv.kv_heads * kv.head_dim; first += kv.head_dim) {
      for (std::int64_t d = 0; d < kv.head_dim; d += kQ8KeyDims) {
        round_to_q8(&keys[first + d], std::min(kQ8KeyDims, kv.head_dim - d));
      }
      round_to_q8(&values[first], kv.head_dim);
    }
  }
  set_row(cache_view(kv, kv.k, compute), row, keys);
  set_row(cache_view(kv, kv.v, compute), row, values);
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

std::int64_t check_heads(const MatrixView& q, const LayerKv& kv) {
  check_dtype(q);
  const std::int64_t heads = q.cols / kv.head_dim;
  check(heads * kv.head_dim == q.cols && heads % kv.kv_heads == 0, "q has a multiple of kv_heads heads");
  return heads;
}

}  // namespace

void rope_append(const RopeAppendParams& params) {
  const LayerKv& kv = *params.kv;
  const std::int64_t heads = check_heads(params.q, kv);
  const std::int64_t rows = params.qkv.rows, dim = kv.head_dim;
  check(params.qkv.cols == (heads + 2 * kv.kv_heads) * dim, "rope_append: a row is q | k | v");
  check(params.q.rows == rows && static_cast<std::int64_t>(params.positions.size()) == rows,
        "rope_append: one position and one q for every row");
  check(kv.rows + rows <= kv.capacity, "rope_append: the cache has room");
  check(params.rope->rotary_dim <= dim, "rope_append: rotary_dim fits the head");
  check(params.q8 == nullptr || (params.q8->type == KvType::kQ8 && params.q8->rows == kv.rows &&
                                 kv.rows + rows <= params.q8->capacity),
        "rope_append: the same rows in 8 bits, and room");
  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<double> values = get_row(params.qkv, r);
    norm_heads(params, values);
    for (std::int64_t h = 0; h < heads + kv.kv_heads; ++h) {
      rotate(*params.rope, params.positions[r], &values[h * dim]);
    }
    const auto k_begin = values.begin() + heads * dim;
    const auto v_begin = k_begin + kv.kv_heads * dim;
    set_row(params.q, r, {values.begin(), k_begin});
    for (const LayerKv* cache : {params.kv, params.q8}) {
      if (cache == nullptr) continue;
      append_row(*cache, kv.rows + r, params.qkv.dtype, {k_begin, v_begin}, {v_begin, values.end()});
    }
  }
  for (LayerKv* cache : {params.kv, params.q8}) {
    if (cache == nullptr) continue;
    cache->positions.insert(cache->positions.end(), params.positions.begin(), params.positions.end());
    cache->rows += rows;
  }
}

namespace {

// Whether the plan's row of (query head, query) lists a key block.
bool lists(const BlockPlan& plan, std::int64_t plan_head, std::int64_t query, std::int64_t block) {
  const std::span<const std::int32_t> row = plan.row(plan_head, query / plan.q_block);
  return std::find(row.begin(), row.end(), block) != row.end();
}

// What one query of one head sees: keys, mean keys, and their values.
struct SeenKeys {
  Vector logits;  // of a mean: and the logarithm of how many keys it stands for
  std::vector<const Vector*> values;
};

Vector weighted_values(SeenKeys seen, std::int64_t dim) {
  Vector out(static_cast<std::size_t>(dim), 0.0);
  if (seen.logits.empty()) return out;
  softmax(seen.logits);
  for (std::size_t j = 0; j < seen.logits.size(); ++j) {
    for (std::int64_t d = 0; d < dim; ++d) out[d] += seen.logits[j] * (*seen.values[j])[d];
  }
  return out;
}

// The cached rows of one kv head, and the means of a plan.
struct HeadRows {
  std::vector<Vector> keys, values, mean_keys, mean_values;

  HeadRows(const AttentionParams& params, std::int64_t kv_head) {
    const DType dtype = params.q.dtype;
    keys = cached_rows(*params.kv, params.kv->k, dtype, kv_head, params.kv->rows);
    values = cached_rows(*params.kv, params.kv->v, dtype, kv_head, params.kv->rows);
    if (params.plan == nullptr || params.plan->means == nullptr) return;
    const LayerKv& means = *params.plan->means;
    mean_keys = cached_rows(means, means.k, dtype, kv_head, means.rows);
    mean_values = cached_rows(means, means.v, dtype, kv_head, means.rows);
  }
};

SeenKeys seen_keys(const AttentionParams& params, const HeadRows& rows, std::int64_t plan_head,
                   std::int64_t query, const double* q) {
  const BlockPlan* plan = params.plan;
  const std::int64_t dim = params.kv->head_dim;
  const double scale = params.scale;
  SeenKeys seen;
  const SlidingWindow window = params.kv->window(params.window);
  const std::int64_t row = params.query_rows[query];
  for (std::int64_t j = window.first_row(row); j <= row; ++j) {
    if (plan != nullptr && !lists(*plan, plan_head, query, j / plan->k_block)) continue;
    seen.logits.push_back(scale * dot(q, rows.keys[j].data(), dim));
    seen.values.push_back(&rows.values[j]);
  }
  if (plan == nullptr || plan->means == nullptr) return seen;
  const std::int64_t first_query = query / plan->q_block * plan->q_block;
  const std::int64_t last_query = std::min(first_query + plan->q_block, params.q.rows) - 1;
  const std::int64_t first_row = params.query_rows[first_query];
  const std::int64_t seen_by_all = window.first_row(params.query_rows[last_query]);
  for (std::int64_t block = 0; (block + 1) * plan->k_block <= first_row; ++block) {
    if (block * plan->k_block < seen_by_all) continue;
    if (lists(*plan, plan_head, query, block)) continue;
    seen.logits.push_back(scale * dot(q, rows.mean_keys[block].data(), dim) +
                          std::log(static_cast<double>(plan->k_block)));
    seen.values.push_back(&rows.mean_values[block]);
  }
  return seen;
}

void check_plan(const BlockPlan& plan, std::int64_t heads, std::int64_t kv_heads, std::int64_t queries) {
  check(plan.heads == heads || plan.heads == kv_heads, "attention: a plan per head or kv head");
  check(plan.q_block > 0 && plan.k_block > 0 && plan.query_blocks * plan.q_block >= queries,
        "attention: the plan has all queries");
}

}  // namespace

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
  if (params.plan != nullptr) check_plan(*params.plan, heads, kv.kv_heads, params.q.rows);
  for (std::int64_t h = 0; h < heads; ++h) {
    const HeadRows rows(params, h / (heads / kv.kv_heads));
    const std::int64_t plan_head = params.plan == nullptr ? 0 : h * params.plan->heads / heads;
    for (std::int64_t i = 0; i < params.q.rows; ++i) {
      const std::vector<double> q = get_row(params.q, i);
      const Vector out = weighted_values(seen_keys(params, rows, plan_head, i, &q[h * dim]), dim);
      for (std::int64_t d = 0; d < dim; ++d) {
        set_element(params.out.row<void>(i), params.out.dtype, h * dim + d, out[d]);
      }
    }
  }
}

namespace {

// [kv rows] what the window's queries pay, mean or maximum over them.
Vector head_window_scores(const WindowScoresParams& params, std::int64_t head, std::int64_t heads) {
  const LayerKv& kv = *params.kv;
  const std::int64_t window = params.q.rows;
  const auto keys = cached_rows(kv, kv.k, params.q.dtype, head / (heads / kv.kv_heads), kv.rows);
  Vector scores(static_cast<std::size_t>(kv.rows), 0.0);
  for (std::int64_t i = 0; i < window; ++i) {
    const std::vector<double> q = get_row(params.q, i);
    const std::int64_t row = kv.rows - window + i;
    const std::int64_t first = kv.window(params.sliding_window).first_row(row);
    const Vector p = probabilities(&q[head * kv.head_dim], keys, first, row, params.scale);
    for (std::size_t j = 0; j < p.size(); ++j) {
      scores[j] = params.queries == QueryReduction::kMax ? higher(scores[j], p[j])
                                                         : scores[j] + p[j] / static_cast<double>(window);
    }
  }
  return scores;
}

}  // namespace

void window_scores(const WindowScoresParams& params) {
  const LayerKv& kv = *params.kv;
  const std::int64_t heads = check_heads(params.q, kv), window = params.q.rows;
  std::vector<std::int32_t> asked(params.heads.begin(), params.heads.end());
  if (asked.empty()) {
    asked.resize(static_cast<std::size_t>(heads));
    std::iota(asked.begin(), asked.end(), 0);
  }
  check(window >= 1 && window <= kv.rows, "window_scores: the window lies in the cache");
  check(std::ssize(params.scores) == kv.rows * (params.per_head ? std::ssize(asked) : 1),
        "window_scores: one score per cached row");
  Vector scores(static_cast<std::size_t>(kv.rows), 0.0);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    check(asked[i] >= 0 && asked[i] < heads, "window_scores: a head of the model");
    const Vector head_scores = head_window_scores(params, asked[i], heads);
    for (std::int64_t j = 0; j < kv.rows; ++j) {
      if (params.per_head) {
        params.scores[static_cast<std::int64_t>(i) * kv.rows + j] = static_cast<float>(head_scores[j]);
      } else if (params.reduction == HeadReduction::kMax) {
        scores[j] = higher(scores[j], head_scores[j]);
      } else {
        scores[j] += head_scores[j] / static_cast<double>(asked.size());
      }
    }
  }
  if (params.per_head) return;
  for (std::int64_t j = 0; j < kv.rows; ++j) params.scores[j] = static_cast<float>(scores[j]);
}

}  // namespace winnow::reference
