#include "backends/cpu/decode_attention.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "backends/cpu/kv_layout.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/plan_attention.h"
#include "backends/cpu/tile_kernels.h"
#include "core/check.h"

namespace winnow::cpu {
namespace {

std::int64_t group_of(const AttentionParams& params) {
  return params.q.cols / params.kv->head_dim / params.kv->kv_heads;
}

// Of one piece in partial_: maximum and sum of every head, then out.
std::int64_t partial_floats(const AttentionParams& params) {
  return group_of(params) * (2 + params.kv->head_dim);
}

}  // namespace

bool DecodeAttention::takes(const AttentionParams& params, DType dtype) {
  const LayerKv& kv = *params.kv;
  const bool has_kernel = kv.type == KvType::kQ8 || (dtype == DType::kBF16 && has_decode_kernel(kv.head_dim));
  if (params.q.rows != 1 || !has_kernel) return false;
  // A plan that lists everything is dense attention, bit for bit.
  return params.plan == nullptr || is_full(*params.plan, params.query_rows, kv.window(params.window));
}

void DecodeAttention::list(std::span<const AttentionParams> queries) {
  heads_.clear(), pieces_.clear(), offsets_.clear(), used_ = 0;
  std::int64_t floats = 0;
  for (const AttentionParams& params : queries) {
    const LayerKv& kv = *params.kv;
    const std::int64_t limit = params.query_rows[0] + 1;
    check(limit <= kv.rows, "attention: a query beyond the cache");
    check(kv.type == queries[0].kv->type, "attention: caches of one kind");
    const std::int64_t first = kv.window(params.window).first_row(limit - 1);
    const std::int64_t pieces = (limit + kPieceRows - 1) / kPieceRows - first / kPieceRows;
    for (std::int64_t kv_head = 0; kv_head < kv.kv_heads; ++kv_head) {
      const auto head = static_cast<std::int64_t>(heads_.size());
      heads_.push_back({&params, kv_head, first, limit, pieces, prepare_q8(params, kv_head)});
      offsets_.push_back(floats);
      for (std::int64_t i = 0; i < pieces; ++i) pieces_.push_back({head, i});
      floats += pieces * partial_floats(params);
    }
  }
  if (partial_.bytes() < floats * 4) partial_ = Buffer::host(floats * 4 + floats);  // caches grow
  if (left_size_ < heads_.size()) {
    left_size_ = heads_.size();
    left_ = std::make_unique<std::atomic<std::int64_t>[]>(left_size_);
  }
  for (std::size_t i = 0; i < heads_.size(); ++i) left_[i].store(heads_[i].pieces, std::memory_order_relaxed);
}

std::int64_t DecodeAttention::prepare_q8(const AttentionParams& params, std::int64_t kv_head) {
  const auto first = static_cast<std::int64_t>(used_);
  if (params.kv->type != KvType::kQ8) return first;
  const std::int64_t group = group_of(params), dim = params.kv->head_dim;
  used_ += static_cast<std::size_t>(group);
  if (q8_queries_.size() < used_) q8_queries_.resize(used_);
  for (std::int64_t h = 0; h < group; ++h) {
    prepare_q8_query(params.q, (kv_head * group + h) * dim, dim,
                     q8_queries_[static_cast<std::size_t>(first + h)]);
  }
  return first;
}

std::int64_t DecodeAttention::first_row(const Piece& piece) const {
  return (heads_[static_cast<std::size_t>(piece.head)].first / kPieceRows + piece.index) * kPieceRows;
}

const BF16* DecodeAttention::keys(const Piece& piece) const {
  const Head& head = heads_[static_cast<std::size_t>(piece.head)];
  const LayerKv& kv = *head.params->kv;
  return kv.k.as<BF16>() + (head.kv_head * kv.capacity + first_row(piece)) * kv.head_dim;
}

void DecodeAttention::attend(const Piece& piece, const Piece& next) {
  const Head& head = heads_[static_cast<std::size_t>(piece.head)];
  float* partial = partial_.as<float>() + offsets_[static_cast<std::size_t>(piece.head)] +
                   piece.index * partial_floats(*head.params);
  if (head.params->kv->type == KvType::kQ8) {
    attend_q8(piece, next, partial);
  } else {
    attend_bf16(piece, next, partial);
  }
  // Whoever finishes a head's last piece merges them all.
  if (left_[static_cast<std::size_t>(piece.head)].fetch_sub(1, std::memory_order_acq_rel) == 1) merge(head);
}

PieceRange DecodeAttention::range_of(const Piece& piece, float* partial) const {
  const Head& head = heads_[static_cast<std::size_t>(piece.head)];
  const std::int64_t group = group_of(*head.params), begin = first_row(piece);
  return {.heads = group,
          .begin = begin,
          .end = std::min(begin + kPieceRows, head.limit),
          .first = head.first,
          .scale_log2 = head.params->scale * std::numbers::log2e_v<float>,
          .maximum = partial,
          .sum = partial + group,
          .out = partial + 2 * group};
}

void DecodeAttention::attend_bf16(const Piece& piece, const Piece& next, float* partial) const {
  const Head& head = heads_[static_cast<std::size_t>(piece.head)];
  const LayerKv& kv = *head.params->kv;
  const std::int64_t dim = kv.head_dim, base = head.kv_head * kv.capacity * dim;
  attend_piece({.range = range_of(piece, partial),
                .q = head.params->q.row<BF16>(0) + head.kv_head * group_of(*head.params) * dim,
                .head_dim = dim,
                .k = kv.k.as<BF16>() + base,
                .v = kv.v.as<BF16>() + base,
                .next = keys(next)});
}

void DecodeAttention::attend_q8(const Piece& piece, const Piece& next, float* partial) const {
  const Head& head = heads_[static_cast<std::size_t>(piece.head)];
  const Head& next_head = heads_[static_cast<std::size_t>(next.head)];
  const std::int64_t next_begin = first_row(next);
  const Q8Head next_cache(*next_head.params->kv, next_head.kv_head);
  choose_q8_kernel().attend(
      {.range = range_of(piece, partial),
       .q = &q8_queries_[static_cast<std::size_t>(head.q8_queries)],
       .cache = Q8Head(*head.params->kv, head.kv_head),
       .next = next_cache.k + next_cache.layout.key_index(next_begin, 0),
       .next_scales = next_cache.k_scales + next_cache.layout.key_scale_index(next_begin, 0)});
}

void DecodeAttention::merge(const Head& head) const {
  const AttentionParams& params = *head.params;
  const std::int64_t group = group_of(params), dim = params.kv->head_dim, stride = partial_floats(params);
  const float* partial = partial_.as<float>() + offsets_[static_cast<std::size_t>(&head - heads_.data())];
  float merged[kMaxHeadDim];
  for (std::int64_t h = 0; h < group; ++h) {
    float maximum = partial[h], sum = 0;
    for (std::int64_t i = 1; i < head.pieces; ++i) maximum = std::max(maximum, partial[i * stride + h]);
    std::fill_n(merged, dim, 0.0f);
    for (std::int64_t i = 0; i < head.pieces; ++i) {
      const float* piece = partial + i * stride;
      const float share = std::exp2(piece[h] - maximum);
      const float* out = piece + 2 * group + h * dim;
      sum += share * piece[group + h];
      for (std::int64_t d = 0; d < dim; ++d) merged[d] += share * out[d];
    }
    const std::int64_t first = (head.kv_head * group + h) * dim;
    for (std::int64_t d = 0; d < dim; ++d) {
      const float value = merged[d] / sum;
      if (params.out.dtype == DType::kF32) {
        params.out.row<float>(0)[first + d] = value;
      } else {
        params.out.row<BF16>(0)[first + d] = to_bf16(value);
      }
    }
  }
}

void DecodeAttention::run(std::span<const AttentionParams> queries, int threads) {
  list(queries);
  const auto pieces = static_cast<std::int64_t>(pieces_.size());
  parallel_pieces(threads, pieces, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      attend(pieces_[static_cast<std::size_t>(i)],
             pieces_[static_cast<std::size_t>(std::min(i + 1, pieces - 1))]);
    }
  });
}

}  // namespace winnow::cpu
