#include "model/decoder_layer.h"

#include <algorithm>
#include <cmath>

namespace winnow {
namespace {

const float* data_or_null(const Buffer& buffer) { return buffer.bytes() == 0 ? nullptr : buffer.as<float>(); }

LinearParams linear_params(const LinearWeights& weights, const MatrixView& x, const MatrixView& y,
                           bool accumulate, bool decode) {
  return {.x = x,
          .weight = weights.weight.get(),
          .bias = data_or_null(weights.bias),
          .y = y,
          .accumulate = accumulate,
          .decode = decode};
}

}  // namespace

// normed and attended are never alive at once, nor are qkv and up: they share memory.
Workspace::Workspace(const Architecture& arch, Backend& backend, std::int64_t chunk_rows)
    : arch_(arch), compute_(backend.compute_dtype()), chunk_rows_(chunk_rows) {
  const auto buffer = [&](std::int64_t cols) {
    return backend.allocate(chunk_rows * dtype_bytes(compute_, cols));
  };
  narrow_ = buffer(std::max(arch.model_dim, arch.q_dim()));
  wide_ = buffer(std::max(arch.qkv_dim(), arch.up_dim()));
  activated_ = buffer(arch.ffn_dim);
  if (arch.has_post_norms())
    branch_ = backend.allocate(chunk_rows * dtype_bytes(DType::kF32, arch.model_dim));
}

std::int64_t Workspace::bytes(const Architecture& arch, DType compute, std::int64_t chunk_rows) {
  const std::int64_t branch = arch.has_post_norms() ? arch.model_dim : 0;
  return chunk_rows * (dtype_bytes(compute, std::max(arch.model_dim, arch.q_dim()) +
                                                std::max(arch.qkv_dim(), arch.up_dim()) + arch.ffn_dim) +
                       dtype_bytes(DType::kF32, branch));
}

MatrixView Workspace::view(const Buffer& buffer, std::int64_t rows, std::int64_t cols) const {
  return {buffer.as<>(), compute_, rows, cols};
}
MatrixView Workspace::normed(std::int64_t rows) const { return view(narrow_, rows, arch_.model_dim); }
MatrixView Workspace::qkv(std::int64_t rows) const { return view(wide_, rows, arch_.qkv_dim()); }
MatrixView Workspace::attended(std::int64_t rows) const { return view(narrow_, rows, arch_.q_dim()); }
MatrixView Workspace::up(std::int64_t rows) const { return view(wide_, rows, arch_.up_dim()); }
MatrixView Workspace::activated(std::int64_t rows) const { return view(activated_, rows, arch_.ffn_dim); }
MatrixView Workspace::branch(std::int64_t rows) const {
  return {branch_.as<>(), DType::kF32, rows, arch_.model_dim};
}

void apply_norm(const Architecture& arch, Backend& backend, const NormWeights& weights, const MatrixView& x,
                const MatrixView& y, bool accumulate) {
  backend.norm({.kind = arch.norm,
                .x = x,
                .weight = weights.weight.as<float>(),
                .bias = data_or_null(weights.bias),
                .epsilon = arch.norm_epsilon,
                .y = y,
                .accumulate = accumulate});
}

void apply_linear(Backend& backend, const LinearWeights& weights, const MatrixView& x, const MatrixView& y,
                  bool accumulate, bool decode) {
  backend.linear(linear_params(weights, x, y, accumulate, decode));
}

void DecoderLayer::project_qkv(const MatrixView& hidden, std::span<const std::int32_t> positions,
                               const MatrixView& q, LayerKv& kv, LayerKv* q8) const {
  RopeAppendParams params = append_params(project(hidden), positions, q, kv);
  params.q8 = q8;
  backend.rope_append(params);
}

MatrixView DecoderLayer::project(const MatrixView& hidden) const {
  const MatrixView normed = workspace.normed(hidden.rows), qkv = workspace.qkv(hidden.rows);
  apply_norm(arch, backend, weights.attention_norm, hidden, normed);
  apply_linear(backend, weights.qkv, normed, qkv, /*accumulate=*/false, decode);
  return qkv;
}

RopeAppendParams DecoderLayer::append_params(const MatrixView& qkv, std::span<const std::int32_t> positions,
                                             const MatrixView& q, LayerKv& kv) const {
  const bool has_own_rope = weights.is_sliding && rope.sliding.rotary_dim > 0;
  return {.qkv = qkv,
          .positions = positions,
          .rope = has_own_rope ? &rope.sliding : &rope.global,
          .q = q,
          .kv = &kv,
          .q_norm = data_or_null(weights.q_norm),
          .k_norm = data_or_null(weights.k_norm),
          .norm_epsilon = arch.norm_epsilon};
}

void DecoderLayer::attend(const MatrixView& hidden, const MatrixView& q,
                          std::span<const std::int64_t> query_rows, const LayerKv& kv,
                          const BlockPlan* plan) const {
  backend.attention(attention_params(q, 0, query_rows, kv, plan));
  add_to(hidden, weights.attention_out, weights.attention_post_norm, workspace.attended(hidden.rows));
}

void DecoderLayer::attend(const MatrixView& hidden, const MatrixView& q, const RowChoice& chosen,
                          const LayerKv& kv) const {
  AttentionParams params = attention_params(q, 0, {}, kv, nullptr);
  params.chosen = &chosen;
  backend.attention(params);
  add_to(hidden, weights.attention_out, weights.attention_post_norm, workspace.attended(hidden.rows));
}

void DecoderLayer::attend_each(const MatrixView& hidden, std::span<const AttentionParams> each) const {
  backend.attention_each(each);
  add_to(hidden, weights.attention_out, weights.attention_post_norm, workspace.attended(hidden.rows));
}

AttentionParams DecoderLayer::attention_params(const MatrixView& q, std::int64_t first,
                                               std::span<const std::int64_t> query_rows, const LayerKv& kv,
                                               const BlockPlan* plan) const {
  return {.q = q,
          .query_rows = query_rows,
          .kv = &kv,
          .scale = arch.attention_scale,
          .out = workspace.attended(first + q.rows).slice(first, q.rows),
          .plan = plan,
          .window = window()};
}

void DecoderLayer::feed_forward(const MatrixView& hidden) const {
  const MatrixView normed = workspace.normed(hidden.rows), up = workspace.up(hidden.rows);
  const MatrixView activated = workspace.activated(hidden.rows);
  apply_norm(arch, backend, weights.ffn_norm, hidden, normed);
  backend.linear_activation(linear_params(weights.up, normed, up, /*accumulate=*/false, decode),
                            {.kind = arch.activation, .x = up, .y = activated});
  add_to(hidden, weights.down, weights.ffn_post_norm, activated);
}

void DecoderLayer::add_to(const MatrixView& hidden, const LinearWeights& linear, const NormWeights& post_norm,
                          const MatrixView& x) const {
  const bool normed = arch.has_post_norms();
  const MatrixView y = normed ? workspace.branch(hidden.rows) : hidden;
  backend.linear_over_ranks(linear_params(linear, x, y, /*accumulate=*/!normed, decode));
  if (normed) apply_norm(arch, backend, post_norm, y, hidden, /*accumulate=*/true);
}

}  // namespace winnow
