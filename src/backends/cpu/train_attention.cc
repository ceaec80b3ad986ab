// Attention over keys that count in part, and its gradient. Tiles of queries, a head a task: scores, their
// softmax and the products with keys and values are plain matrix products over the rows as they lie in
// memory. The backward pass computes a tile's scores again (Dao et al., arXiv 2205.14135, algorithm 4), so
// memory grows with the window, not with its square.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "backends/cpu/parallel.h"
#include "backends/cpu/parallel_tasks.h"
#include "backends/cpu/product_onednn.h"
#include "backends/cpu/train_rows.h"
#include "backends/train_ops.h"
#include "core/check.h"

namespace winnow {
namespace {

constexpr std::int64_t kTileRows = 128;

// One head's view of the rows of a window.
struct Head {
  const MaskedAttentionParams& p;
  std::int64_t head;

  std::int64_t rows() const { return p.qkv.rows; }
  std::int64_t stride() const { return p.qkv.cols; }
  std::int64_t dim() const { return p.sizes.head_dim; }
  std::int64_t kv_head() const { return head / (p.sizes.heads / p.sizes.kv_heads); }
  std::int64_t k_column() const { return p.sizes.q_dim() + kv_head() * dim(); }
  std::int64_t v_column() const { return k_column() + p.sizes.kv_dim(); }
  const float* q(std::int64_t row) const { return p.qkv.row<float>(row) + head * dim(); }
  const float* k(std::int64_t row) const { return p.qkv.row<float>(row) + k_column(); }
  const float* v(std::int64_t row) const { return p.qkv.row<float>(row) + v_column(); }
  const float* keep() const { return p.keep.empty() ? nullptr : p.keep.data(); }
  float* log_sums() const { return p.log_sums.data() + head * rows(); }
  // The first key that the query sees.
  std::int64_t first_key(std::int64_t query) const {
    return p.window > 0 ? std::max<std::int64_t>(0, query - p.window + 1) : 0;
  }
};

// Queries [begin, begin + rows) and the keys that any of them sees, [first, end).
struct Tile {
  std::int64_t begin, rows, first, end;
  std::int64_t keys() const { return end - first; }
};

Tile tile_at(const Head& head, std::int64_t begin) {
  const std::int64_t end = std::min(head.rows(), begin + kTileRows);
  return {begin, end - begin, head.first_key(begin), end};
}

// scores[r][j - tile.first] = scale q_r . k_j
void score(const Head& head, const Tile& tile, float* scores) {
  cpu::product_f32({.m = tile.rows,
                    .n = tile.keys(),
                    .k = head.dim(),
                    .a = head.q(tile.begin),
                    .lda = head.stride(),
                    .b = head.k(tile.first),
                    .ldb = head.stride(),
                    .transpose_b = true,
                    .c = scores,
                    .ldc = tile.keys(),
                    .alpha = head.p.scale});
}

// What the query does not see: zeros before `begin` and behind `own`.
void clear_outside(float* row, std::int64_t begin, std::int64_t own, std::int64_t keys) {
  std::fill(row, row + begin, 0.0f);
  std::fill(row + own + 1, row + keys, 0.0f);
}

void attend_head(const Head& head, std::vector<float>& scores) {
  const MaskedAttentionParams& p = head.p;
  scores.resize(static_cast<std::size_t>(kTileRows * head.rows()));
  for (std::int64_t begin = 0; begin < head.rows(); begin += kTileRows) {
    const Tile tile = tile_at(head, begin);
    score(head, tile, scores.data());
    const float* keep = head.keep() == nullptr ? nullptr : head.keep() + tile.first;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const std::int64_t query = begin + r, first = head.first_key(query) - tile.first,
                         own = query - tile.first;
      float* row = scores.data() + r * tile.keys();
      head.log_sums()[query] = cpu::masked_softmax(row, keep, first, own);
      clear_outside(row, first, own, tile.keys());
    }
    cpu::product_f32({.m = tile.rows,
                      .n = head.dim(),
                      .k = tile.keys(),
                      .a = scores.data(),
                      .lda = tile.keys(),
                      .b = head.v(tile.first),
                      .ldb = head.stride(),
                      .c = p.out.row<float>(begin) + head.head * head.dim(),
                      .ldc = p.out.cols});
    if (p.visit != nullptr) (*p.visit)({head.head, begin, tile.rows, tile.first, tile.keys(), scores.data()});
  }
}

struct HeadGradients {
  std::vector<float> dk, dv, dkeep;  // [rows, head_dim] twice, [rows]
};

struct BackwardScratch {
  std::vector<float> scores, probs, dprobs;
};

void tile_backward(const MaskedAttentionBackwardParams& p, const Head& head, const Tile& tile,
                   BackwardScratch& scratch, HeadGradients& gradients) {
  const std::int64_t dim = head.dim(), keys = tile.keys(), column = head.head * dim;
  const float* dout = p.dout.row<float>(tile.begin) + column;
  score(head, tile, scratch.scores.data());
  cpu::product_f32({.m = tile.rows,
                    .n = keys,
                    .k = dim,
                    .a = dout,
                    .lda = p.dout.cols,
                    .b = head.v(tile.first),
                    .ldb = head.stride(),
                    .transpose_b = true,
                    .c = scratch.dprobs.data(),
                    .ldc = keys});
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t query = tile.begin + r, first = head.first_key(query) - tile.first,
                       own = query - tile.first;
    const float *out = p.forward.out.row<float>(query) + column,
                *gradient = p.dout.row<float>(query) + column;
    float* probs = scratch.probs.data() + r * keys;
    float* dprobs = scratch.dprobs.data() + r * keys;
    cpu::softmax_backward({.scores = scratch.scores.data() + r * keys,
                           .keep = head.keep() == nullptr ? nullptr : head.keep() + tile.first,
                           .probs = probs,
                           .dprobs = dprobs,
                           .dkeep = gradients.dkeep.empty() ? nullptr : gradients.dkeep.data() + tile.first,
                           .log_sum = head.log_sums()[query],
                           .delta = std::inner_product(out, out + dim, gradient, 0.0f)},
                          first, own);
    clear_outside(probs, first, own, keys);
    clear_outside(dprobs, first, own, keys);
  }
  const float scale = p.forward.scale;
  cpu::product_f32({.m = tile.rows,
                    .n = dim,
                    .k = keys,
                    .a = scratch.dprobs.data(),
                    .lda = keys,
                    .b = head.k(tile.first),
                    .ldb = head.stride(),
                    .c = p.dqkv.row<float>(tile.begin) + column,
                    .ldc = p.dqkv.cols,
                    .alpha = scale});
  cpu::product_f32({.m = keys,
                    .n = dim,
                    .k = tile.rows,
                    .a = scratch.dprobs.data(),
                    .lda = keys,
                    .transpose_a = true,
                    .b = head.q(tile.begin),
                    .ldb = head.stride(),
                    .c = gradients.dk.data() + tile.first * dim,
                    .ldc = dim,
                    .alpha = scale,
                    .beta = 1.0f});
  cpu::product_f32({.m = keys,
                    .n = dim,
                    .k = tile.rows,
                    .a = scratch.probs.data(),
                    .lda = keys,
                    .transpose_a = true,
                    .b = dout,
                    .ldb = p.dout.cols,
                    .c = gradients.dv.data() + tile.first * dim,
                    .ldc = dim,
                    .beta = 1.0f});
}

// Sums over the query heads of each kv head, in order.
void gather_head(const MaskedAttentionBackwardParams& p, const std::vector<HeadGradients>& gradients,
                 std::int64_t row) {
  const HeadSizes& sizes = p.forward.sizes;
  const std::int64_t dim = sizes.head_dim, group = sizes.heads / sizes.kv_heads;
  float* out = p.dqkv.row<float>(row) + sizes.q_dim();
  std::fill(out, out + 2 * sizes.kv_dim(), 0.0f);
  for (std::int64_t head = 0; head < sizes.heads; ++head) {
    const HeadGradients& own = gradients[head];
    float *dk = out + head / group * dim, *dv = dk + sizes.kv_dim();
    for (std::int64_t i = 0; i < dim; ++i) dk[i] += own.dk[row * dim + i];
    for (std::int64_t i = 0; i < dim; ++i) dv[i] += own.dv[row * dim + i];
  }
}

void check_shapes(const MaskedAttentionParams& p) {
  const std::int64_t rows = p.qkv.rows;
  check(p.qkv.cols == p.sizes.qkv_dim() && p.out.rows == rows && p.out.cols == p.sizes.q_dim(),
        "attention: shapes fit the heads");
  check(std::ssize(p.log_sums) == p.sizes.heads * rows && (p.keep.empty() || std::ssize(p.keep) == rows),
        "attention: a number a row");
}

}  // namespace

void TrainOps::attention(const MaskedAttentionParams& p) const {
  check_shapes(p);
  cpu::parallel(threads_, [&](int thread) {
    std::vector<float> scores;
    for (std::int64_t head = thread; head < p.sizes.heads; head += threads_) attend_head({p, head}, scores);
  });
}

void TrainOps::attention_backward(const MaskedAttentionBackwardParams& p) const {
  check_shapes(p.forward);
  const std::int64_t rows = p.forward.qkv.rows, heads = p.forward.sizes.heads, dim = p.forward.sizes.head_dim;
  std::vector<HeadGradients> gradients(static_cast<std::size_t>(heads));
  cpu::parallel(threads_, [&](int thread) {
    const auto tile_size = static_cast<std::size_t>(kTileRows * rows);
    BackwardScratch scratch{std::vector<float>(tile_size), std::vector<float>(tile_size),
                            std::vector<float>(tile_size)};
    for (std::int64_t h = thread; h < heads; h += threads_) {
      const Head head{p.forward, h};
      gradients[h].dk.assign(static_cast<std::size_t>(rows * dim), 0.0f);
      gradients[h].dv.assign(static_cast<std::size_t>(rows * dim), 0.0f);
      if (!p.dkeep.empty()) gradients[h].dkeep.assign(static_cast<std::size_t>(rows), 0.0f);
      for (std::int64_t begin = 0; begin < rows; begin += kTileRows)
        tile_backward(p, head, tile_at(head, begin), scratch, gradients[h]);
    }
  });
  cpu::parallel_rows(threads_, rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) gather_head(p, gradients, row);
  });
  for (std::int64_t head = 0; head < heads && !p.dkeep.empty(); ++head) {
    for (std::int64_t row = 0; row < rows; ++row) p.dkeep[row] += gradients[head].dkeep[row];
  }
}

}  // namespace winnow
