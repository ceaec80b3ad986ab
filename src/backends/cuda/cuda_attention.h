// CudaAttention: the CUDA backend's ops around a cache. Which kernel takes a call:
//
//   one query, no plan                      decode_attention.cu
//   bf16, head_dim 64, 96, 128 or 256       sparse_attention.h, over the plan or a full one: the fastest
//   the same with a sliding window          mma_attention.cu
//   all else                                plain_attention.cu, or the plain kernel of sparse_attention.h
#pragma once

#include "backends/backend.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/matmul.h"
#include "backends/cuda/sparse_attention.h"
#include "backends/cuda/step_graph.h"
#include "backends/row_choice.h"

namespace winnow::cuda {

class CudaAttention {
 public:
  CudaAttention(DType dtype, Device& device, Matmul& matmul, StepGraphs& steps)
      : dtype_(dtype), device_(device), matmul_(matmul), steps_(steps) {}

  void attention(const AttentionParams& params);
  void attention_probs(const AttentionProbsParams& params);
  void window_scores(const WindowScoresParams& params);
  std::unique_ptr<RowChoice> choose_rows(const RowChoiceParams& params);

 private:
  bool bf16() const { return dtype_ == DType::kBF16; }
  std::int64_t heads_of(const MatrixView& q, const LayerKv& kv) const;
  void decode(const AttentionParams& params, std::int64_t heads);
  BlockAttentionParams dense_blocks(const AttentionParams& params, std::int64_t heads) const;
  void attend_blocks(const AttentionParams& params, BlockAttentionParams blocks);
  // window_scores() left on the device, in its working memory.
  const float* scores_on_device(const WindowScoresParams& params);
  // Logits of the heads asked, [heads, queries, kv->rows] with rows `stride` elements apart, and what they
  // are still to be multiplied by. packed: their queries (launch_pack_heads), for the matrix product; null
  // where that does not take them.
  float logits(const WindowScoresParams& params, std::span<const std::int32_t> asked, const void* packed,
               float* to, std::int64_t stride);

  DType dtype_;
  Device& device_;
  Matmul& matmul_;
  StepGraphs& steps_;
  Buffer decode_scratch_;
};

}  // namespace winnow::cuda
