// Launchers of the CUDA backend's kernels. Pointers are to device memory unless they say otherwise; sizes
// were checked by the caller (cuda_backend.cc). `bf16` says which of the two element types the void pointers
// of compute dtype have; matrices are row-major without gaps.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace winnow::cuda {

struct NormArgs {
  const float* x;       // [rows, dim]
  const float* weight;  // [dim]
  const float* bias;    // [dim] or nullptr
  void* y;              // [rows, dim]
  std::int64_t rows, dim;
  float epsilon;
  bool layer;       // LayerNorm, else RMS
  bool bf16;        // y's type
  bool accumulate;  // y += norm(x), float32
};
void launch_norm(const NormArgs& args, cudaStream_t stream);

struct RopeAppendArgs {
  const void* qkv;                // [rows, (heads + 2 kv_heads) * head_dim]
  const std::int32_t* positions;  // [rows]
  const std::int32_t* first_row;  // of the cache, where row 0 goes: one number
  const float *cos, *sin;         // [positions, rotary_dim / 2]
  const float *q_norm, *k_norm;   // [head_dim], or nullptr
  void *q, *k, *v;                // q [rows, heads * head_dim]; caches [capacity, kv_heads * head_dim]
  std::int64_t rows, heads, kv_heads, head_dim, rotary_dim;
  float norm_epsilon;
  bool bf16;
};
void launch_rope_append(const RopeAppendArgs& args, cudaStream_t stream);

enum class Activation : int { kSiluGated, kGeluTanh, kGeluErf, kGeluTanhGated };
void launch_activation(Activation kind, const void* x, void* y, std::int64_t rows, std::int64_t dim,
                       bool bf16, cudaStream_t stream);

// y = x with the element types named.
void launch_convert(const void* x, bool x_bf16, void* y, bool y_bf16, std::int64_t count,
                    cudaStream_t stream);
// y[i] = row rows[i] of x; row_bytes is a multiple of 2.
void launch_gather_rows(const void* x, const std::int64_t* rows, void* y, std::int64_t count,
                        std::int64_t row_bytes, cudaStream_t stream);
// Row rows[i] - first of x to row i, for `count` ascending rows. row_bytes is a multiple of 2.
void launch_move_up(void* x, const std::int32_t* rows, std::int64_t first, std::int64_t count,
                    std::int64_t row_bytes, cudaStream_t stream);
// hidden[i] = scale * row tokens[i] of the table.
void launch_embed(const void* table, bool bf16, const std::int32_t* tokens, float scale, float* hidden,
                  std::int64_t count, std::int64_t dim, cudaStream_t stream);
void launch_row_norms(const void* x, bool bf16, float* norms, std::int64_t rows, std::int64_t cols,
                      cudaStream_t stream);
// y[i, j] = scale * uniform(stream_id, first + i * stride + j) (core/uniform.h).
struct UniformArgs {
  std::uint64_t stream_id;
  float scale;
  void* y;  // [rows, cols]
  std::int64_t rows, cols, first, stride;
  bool bf16;
};
void launch_uniform(const UniformArgs& args, cudaStream_t stream);

// y = x W^T + bias (y += when `accumulate`) for a few rows: the weight is read once, at memory speed.
// in_features times the element size is a multiple of 16.
struct GemvArgs {
  const void* x;       // [rows, in]
  const void* weight;  // [out, in]
  const float* bias;   // [out] or nullptr
  void* y;             // [rows, out], float32 or the compute dtype
  std::int64_t rows, in, out;
  bool bf16, y_bf16, accumulate;
};
constexpr std::int64_t kMaxGemvRows = 8;
void launch_gemv(const GemvArgs& args, cudaStream_t stream);

// A cache's keys and values: row r of kv head h begins at (r * kv_heads + h) * head_dim.
struct CacheView {
  const void *k, *v;
  std::int64_t kv_heads, head_dim;
};

// Dense attention of any shape in float32 arithmetic: for float32 and rare shapes; slow.
struct PlainAttentionArgs {
  const void* q;                   // [rows, heads * head_dim]
  const std::int64_t* query_rows;  // [rows]
  CacheView cache;
  void* out;
  std::int64_t rows, heads;
  const std::int64_t* first_rows;  // [rows] what each query's window begins with; nullptr: no window
  float scale;
  bool bf16;
};
void launch_plain_attention(const PlainAttentionArgs& args, cudaStream_t stream);

// The same with bf16 tensor cores, for windows: what the kernel over plans (sparse_attention.h) does not
// have. head_dim 64, 96, 128 or 256.
bool mma_attention_takes(std::int64_t head_dim);
void launch_mma_attention(const PlainAttentionArgs& args, std::int64_t last_row, cudaStream_t stream);

// One query, the cache split among blocks of threads.
struct DecodeAttentionArgs {
  const void* q;             // [heads * head_dim]
  const std::int32_t* seen;  // the query's cache row, and the first row it sees: two numbers
  CacheView cache;
  void* out;
  std::int64_t heads, capacity;
  float scale;
  bool bf16;
  float* partial;  // decode_scratch_bytes()
};
bool decode_attention_takes(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim);
std::int64_t decode_scratch_bytes(std::int64_t heads, std::int64_t head_dim, std::int64_t capacity);
void launch_decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream);

// Softmax over logits [first_rows[i], query_rows[i]] of `cols` in place, 0 elsewhere; one row a query.
void launch_causal_softmax(float* logits, const std::int64_t* first_rows, const std::int64_t* query_rows,
                           std::int64_t rows, std::int64_t cols, cudaStream_t stream);
// logits[h][i][j] = scale * q[i, head0 + h] . k[j, kv head], f32; for shapes the matrix product does not
// take.
struct LogitsArgs {
  const void* q;
  std::int64_t q_stride;  // elements of a row of q
  CacheView cache;
  std::int64_t head, group, kv_head;  // heads [head, head + group), all of one kv head
  std::int64_t queries, rows;
  float scale;
  float* logits;  // [group, queries, rows], rows logits_stride elements apart
  std::int64_t logits_stride;
  bool bf16;
};
void launch_logits(const LogitsArgs& args, cudaStream_t stream);
// y[h][i] = head heads[h] (without any: h) of row i of q, bf16: [count, queries, head_dim]. head_dim is a
// multiple of 8.
void launch_pack_heads(const void* q, std::int64_t q_stride, const std::int32_t* heads, void* y,
                       std::int64_t count, std::int64_t queries, std::int64_t head_dim, cudaStream_t stream);
// Means (or maxima) over the queries, which sit at the last rows, of the softmax of scale * logits.
struct WindowMeansArgs {
  const float* logits;             // [heads, queries, rows], rows logits_stride elements apart
  float* stats;                    // [heads * queries * 2], working memory
  float* means;                    // [heads, rows]
  const std::int64_t* first_rows;  // [queries] what each sees begins there; nullptr: everything
  std::int64_t heads, queries, rows, logits_stride;
  float scale;
  bool maximum;
};
void launch_window_means(const WindowMeansArgs& args, cudaStream_t stream);
// scores[j] = maximum or mean over the heads of means[h][j].
void launch_reduce_heads(const float* means, float* scores, std::int64_t heads, std::int64_t rows, bool mean,
                         cudaStream_t stream);

// A stage's choice (row_choice.h) among `tokens` scores.
struct ScoreSummary {
  double lowest, highest, abs_sum;  // of the finite scores, pooled
  int degenerate;
};
struct RowChoiceArgs {
  const float* scores;  // [tokens]
  float* pooled;        // [tokens] working memory
  std::int32_t* rows;   // out, ascending cache rows: first_row + token
  // The same for the host: pinned memory, written by the kernel, for a copy would wait for another engine.
  std::int32_t* host_rows;
  ScoreSummary* host_summary;
  int first_row, tokens, pool, head, tail, by_score, by_recency;
  double equal_scores;  // kEqualScores
};
void launch_choose_rows(const RowChoiceArgs& args, cudaStream_t stream);

}  // namespace winnow::cuda
