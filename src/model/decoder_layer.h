// A decoder layer in its three steps, on a chunk of rows. The main path (runtime/prefill.cc) calls them; they
// call Backend ops only and know nothing of pruning.
#pragma once

#include <cstdint>
#include <span>

#include "backends/backend.h"
#include "model/architecture.h"
#include "model/weights.h"

namespace winnow {

// Activations of one chunk of rows; made once, used by every layer.
class Workspace {
 public:
  Workspace(const Architecture& arch, Backend& backend, std::int64_t chunk_rows);
  std::int64_t chunk_rows() const { return chunk_rows_; }
  static std::int64_t bytes(const Architecture& arch, DType compute, std::int64_t chunk_rows);

  MatrixView normed(std::int64_t rows) const;     // [rows, model_dim]
  MatrixView qkv(std::int64_t rows) const;        // [rows, qkv_dim]
  MatrixView attended(std::int64_t rows) const;   // [rows, q_dim]
  MatrixView up(std::int64_t rows) const;         // [rows, up_dim]
  MatrixView activated(std::int64_t rows) const;  // [rows, ffn_dim]
  MatrixView branch(std::int64_t rows) const;     // [rows, model_dim] float32; families with post norms only

 private:
  MatrixView view(const Buffer& buffer, std::int64_t rows, std::int64_t cols) const;
  const Architecture& arch_;
  DType compute_;
  std::int64_t chunk_rows_;
  Buffer narrow_, wide_, activated_, branch_;
};

// y = norm(x), and y = x W^T + bias (y += where `accumulate`), with a model's weights.
void apply_norm(const Architecture& arch, Backend& backend, const NormWeights& weights, const MatrixView& x,
                const MatrixView& y, bool accumulate = false);
void apply_linear(Backend& backend, const LinearWeights& weights, const MatrixView& x, const MatrixView& y,
                  bool accumulate = false, bool decode = false);

struct DecoderLayer {
  const Architecture& arch;
  const LayerWeights& weights;
  const RopeTables& rope;
  Backend& backend;
  const Workspace& workspace;
  bool decode = false;  // on the weights' decode forms (LinearParams::decode)

  // Positions that a query of this layer sees (AttentionParams::window); 0: all.
  std::int64_t window() const { return weights.is_sliding ? arch.sliding_window : 0; }

  // hidden [rows, model_dim] -> q [rows, q_dim], rotated; keys and values appended to `kv`, and in 8 bits to
  // `q8` unless it is null.
  void project_qkv(const MatrixView& hidden, std::span<const std::int32_t> positions, const MatrixView& q,
                   LayerKv& kv, LayerKv* q8 = nullptr) const;
  // The parts of project_qkv, for rows of several caches: q | k | v of all rows; then
  // backend.rope_append_each().
  MatrixView project(const MatrixView& hidden) const;
  RopeAppendParams append_params(const MatrixView& qkv, std::span<const std::int32_t> positions,
                                 const MatrixView& q, LayerKv& kv) const;

  // hidden += W_o attention(q, kv); query i sits at cache row query_rows[i]. `plan` null: dense.
  void attend(const MatrixView& hidden, const MatrixView& q, std::span<const std::int64_t> query_rows,
              const LayerKv& kv, const BlockPlan* plan) const;
  // The same, dense, for queries that the host need not know yet.
  void attend(const MatrixView& hidden, const MatrixView& q, const RowChoice& chosen,
              const LayerKv& kv) const;
  // The same for rows of several caches: each[i], made by attention_params(), is of row i.
  void attend_each(const MatrixView& hidden, std::span<const AttentionParams> each) const;
  // Attention of `q` into the rows of the workspace from `first` on.
  AttentionParams attention_params(const MatrixView& q, std::int64_t first,
                                   std::span<const std::int64_t> query_rows, const LayerKv& kv,
                                   const BlockPlan* plan) const;
  // hidden += ffn(norm(hidden)).
  void feed_forward(const MatrixView& hidden) const;

  // hidden += x W^T, or hidden += norm(x W^T) in families with post norms; the product is summed over ranks.
  void add_to(const MatrixView& hidden, const LinearWeights& linear, const NormWeights& post_norm,
              const MatrixView& x) const;
};

}  // namespace winnow
