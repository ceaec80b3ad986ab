// TrainOps: what training needs beside a Backend. Gradients of its operations with respect to activations
// (weights are frozen, so the gradient of a linear layer is again a linear layer: dx = dy W, a
// Backend::linear with the transposed weight), and the parts of the forward pass whose results the gradients
// need in plain row-major memory: rotary embedding and attention, the latter over keys that count in part.
//
// Called by train/ only. Everything is float32 in host memory. Rows and heads are shared out over threads, no
// sum is split between threads: the same input and number of threads give the same bits.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backends/backend.h"

namespace winnow {

// c = alpha op(a) op(b) + beta c, row-major, op(a) [m, k], op(b) [k, n]; lda, ldb, ldc are distances of rows
// as they lie in memory.
struct ProductParams {
  std::int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  std::int64_t lda = 0;
  bool transpose_a = false;
  const float* b = nullptr;
  std::int64_t ldb = 0;
  bool transpose_b = false;
  float* c = nullptr;
  std::int64_t ldc = 0;
  float alpha = 1.0f, beta = 0.0f;
};

// dx = (dy * weight) through the norm, or dx += where `accumulate`. x is the norm's input.
struct NormBackwardParams {
  NormKind kind = NormKind::kRms;
  MatrixView x, dy, dx;  // [rows, dim]
  const float* weight = nullptr;
  float epsilon = 1e-5f;
  bool accumulate = false;
};

// dx of y = activation(x); x as in ActivationParams.
struct ActivationBackwardParams {
  ActivationKind kind = ActivationKind::kSiluGated;
  MatrixView x, dy, dx;
};

// Heads of one row: q | k | v, as the QKV product leaves them.
struct HeadSizes {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t q_dim() const { return heads * head_dim; }
  std::int64_t kv_dim() const { return kv_heads * head_dim; }
  std::int64_t qkv_dim() const { return q_dim() + 2 * kv_dim(); }
};

// Norms of q and k, if there are any, and the rotation; row i is at position i. Backend::rope_append without
// the cache.
struct RopeParams {
  HeadSizes sizes;
  const RopeTable* rope = nullptr;
  const float* q_norm = nullptr;  // [head_dim] or nullptr
  const float* k_norm = nullptr;
  float norm_epsilon = 0.0f;
  MatrixView x;  // [rows, qkv_dim] before
  MatrixView y;  // [rows, qkv_dim] after
};
struct RopeBackwardParams {
  RopeParams forward;   // `y` is not looked at
  MatrixView gradient;  // [rows, qkv_dim] of y, then of x
};

// Softmax probabilities of one head: queries [first_query, first_query + queries) and keys [first_key,
// first_key
// + keys), which are all that any of them sees; probs [queries, keys].
struct ProbsTile {
  std::int64_t head, first_query, queries, first_key, keys;
  const float* probs;
};
// Called by the thread that computes the head, for its queries in order.
using VisitProbs = std::function<void(const ProbsTile&)>;

// Causal attention of a whole window. Key j counts keep[j] in the softmax of every query but its own, where
// it counts 1:
//   p_ij = keep_j exp(s_ij) / sum_k keep_k exp(s_ik)
// so that a key of keep 0 is as if it were not there, and the shares of the others add up to 1.
struct MaskedAttentionParams {
  HeadSizes sizes;
  MatrixView qkv;  // [rows, qkv_dim] rotated
  float scale = 1.0f;
  std::int64_t window = 0;           // a query sees this many keys, its own included; 0: all before it
  std::span<const float> keep = {};  // [rows] in [0, 1], or empty: all 1
  MatrixView out;                    // [rows, q_dim]
  std::span<float> log_sums;         // [heads, rows] out: ln of the softmax's denominator
  const VisitProbs* visit = nullptr;
};
struct MaskedAttentionBackwardParams {
  MaskedAttentionParams forward;  // with the results of the forward pass; `visit` is not called
  MatrixView dout;                // [rows, q_dim]
  MatrixView dqkv;                // [rows, qkv_dim] out
  std::span<float> dkeep = {};    // [rows] +=, or empty
};

// Cross-entropy of logits, or with `teacher` KL(teacher || softmax(logits)), and what they do to the logits.
struct LossParams {
  MatrixView logits;  // [rows, vocab]; the gradient of sum_i weight_i loss_i comes out in its place
  std::span<const std::int32_t> targets;  // [rows]
  std::span<const float> weights;         // [rows]
  const MatrixView* teacher = nullptr;    // [rows, vocab] logits
  std::span<float> losses;                // [rows] out, without the weights
};

class TrainOps {
 public:
  explicit TrainOps(int threads);  // 0: all the process may use

  void norm_backward(const NormBackwardParams& params) const;
  void activation_backward(const ActivationBackwardParams& params) const;
  void rope(const RopeParams& params) const;
  void rope_backward(const RopeBackwardParams& params) const;
  void attention(const MaskedAttentionParams& params) const;
  void attention_backward(const MaskedAttentionBackwardParams& params) const;
  void loss(const LossParams& params) const;
  // On all threads, or on the calling one alone inside another op.
  void product(const ProductParams& params) const;
  int threads() const { return threads_; }

 private:
  int threads_;
};

}  // namespace winnow
