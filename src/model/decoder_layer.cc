#include "model/decoder_layer.h"

#include <algorithm>
#include <cmath>

namespace winnow {
namespace {

const float* data_or_null(const Buffer& buffer) { return buffer.bytes() == 0 ? nullptr : buffer.as<float>(); }

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
}

std::int64_t Workspace::bytes(const Architecture& arch, DType compute, std::int64_t chunk_rows) {
  return chunk_rows * dtype_bytes(compute, std::max(arch.model_dim, arch.q_dim()) +
                                               std::max(arch.qkv_dim(), arch.up_dim()) + arch.ffn_dim);
}

MatrixView Workspace::view(const Buffer& buffer, std::int64_t rows, std::int64_t cols) const {
  return {buffer.as<>(), compute_, rows, cols};
}
MatrixView Workspace::normed(std::int64_t rows) const { return view(narrow_, rows, arch_.model_dim); }
MatrixView Workspace::qkv(std::int64_t rows) const { return view(wide_, rows, arch_.qkv_dim()); }
MatrixView Workspace::attended(std::int64_t rows) const { return view(narrow_, rows, arch_.q_dim()); }
MatrixView Workspace::up(std::int64_t rows) const { return view(wide_, rows, arch_.up_dim()); }
MatrixView Workspace::activated(std::int64_t rows) const { return view(activated_, rows, arch_.ffn_dim); }

void apply_norm(const Architecture& arch, Backend& backend, const NormWeights& weights, const MatrixView& x,
                const MatrixView& y) {
  backend.norm({.kind = arch.norm,
                .x = x,
                .weight = weights.weight.as<float>(),
                .bias = data_or_null(weights.bias),
                .epsilon = arch.norm_epsilon,
                .y = y});
}

void apply_linear(Backend& backend, const LinearWeights& weights, const MatrixView& x, const MatrixView& y,
                  bool accumulate) {
  backend.linear({.x = x,
                  .weight = weights.weight.get(),
                  .bias = data_or_null(weights.bias),
                  .y = y,
                  .accumulate = accumulate});
}

void DecoderLayer::project_qkv(const MatrixView& hidden, std::span<const std::int32_t> positions,
                               const MatrixView& q, LayerKv& kv) const {
  const MatrixView normed = workspace.normed(hidden.rows), qkv = workspace.qkv(hidden.rows);
  apply_norm(arch, backend, weights.attention_norm, hidden, normed);
  apply_linear(backend, weights.qkv, normed, qkv);
  backend.rope_append({.qkv = qkv, .positions = positions, .rope = &rope, .q = q, .kv = &kv});
}

void DecoderLayer::attend(const MatrixView& hidden, const MatrixView& q,
                          std::span<const std::int64_t> query_rows, const LayerKv& kv,
                          const BlockPlan* plan) const {
  const MatrixView attended = workspace.attended(hidden.rows);
  backend.attention({.q = q,
                     .query_rows = query_rows,
                     .kv = &kv,
                     .scale = 1.0f / std::sqrt(static_cast<float>(arch.head_dim)),
                     .out = attended,
                     .plan = plan});
  apply_linear(backend, weights.attention_out, attended, hidden, /*accumulate=*/true);
}

void DecoderLayer::feed_forward(const MatrixView& hidden) const {
  const MatrixView normed = workspace.normed(hidden.rows), up = workspace.up(hidden.rows);
  const MatrixView activated = workspace.activated(hidden.rows);
  apply_norm(arch, backend, weights.ffn_norm, hidden, normed);
  apply_linear(backend, weights.up, normed, up);
  backend.activation({.kind = arch.activation, .x = up, .y = activated});
  apply_linear(backend, weights.down, activated, hidden, /*accumulate=*/true);
}

}  // namespace winnow
