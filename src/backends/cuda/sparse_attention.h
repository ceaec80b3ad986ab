// Block-sparse causal attention on the GPU, over a plan that lies in device memory.
//
// Called by the CUDA backend and by bench/gpu. Knows nothing of Backend or LayerKv: device pointers and
// strides come in, everything is queued on the caller's stream, which is the only one of its device, nothing
// is allocated, nothing comes back to the host.
//
// Two kernels stand behind attend_blocks(): on Hopper (compute capability 9.0) one for bfloat16 with the
// tensor cores (sparse_attention_hopper.cu), for every shape supports_tensor_cores() takes; and a plain one
// for all the rest, float32 included (sparse_attention_plain.cu), which is also what the first is tested
// against.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/dtype.h"

namespace winnow::cuda {

// As BlockPlan (backends/block_plan.h), with a bit for each key block in place of lists: block j of a row is
// bit j % 32 of word j / 32. `rows` of words are [heads, query_blocks].
struct DevicePlan {
  std::int64_t q_block = 0, k_block = 0;
  std::int64_t heads = 0;  // as many as query heads, or as kv heads (one plan for a GQA group)
  std::int64_t query_blocks = 0;
  std::int64_t words = 0;  // of a row: plan_words(kv rows, k_block), or more
  // Device [heads, query_blocks, words]; bits past the last block are 0. Null: a full plan, with no means.
  const std::uint32_t* listed = nullptr;

  // Mean correction, as BlockPlan::means: row j is the mean key (value) of key block j, rows contiguous,
  // dtype of the cache. Null: skipped blocks count nothing.
  const void* mean_k = nullptr;
  const void* mean_v = nullptr;
  std::int64_t means = 0;             // full key blocks of the cache
  std::int64_t mean_head_stride = 0;  // elements from one kv head to the next
};
constexpr std::int64_t plan_words(std::int64_t kv_rows, std::int64_t k_block) {
  return ((kv_rows + k_block - 1) / k_block + 31) / 32;
}

// out[i, h] = softmax over the listed keys j <= row(i) of (scale q[i, h] . k[j, h / group]) times v[j]. A
// query that is left with no key gets zeros. Strides are in elements; base addresses and strides are
// multiples of 16 bytes.
struct BlockAttentionParams {
  DType dtype = DType::kBF16;  // of q, k, v and out: kBF16 or kF32
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t queries = 0, kv_rows = 0;
  const void* q = nullptr;  // [queries] rows of [heads, head_dim]
  std::int64_t q_row_stride = 0;
  void* out = nullptr;  // shaped as q
  std::int64_t out_row_stride = 0;
  const void* k = nullptr;  // [kv_heads, kv_rows] of [head_dim], in either order
  const void* v = nullptr;
  std::int64_t kv_row_stride = 0, kv_head_stride = 0;
  const std::int32_t* query_rows = nullptr;  // device [queries] ascending cache rows; null: first_row + i
  std::int64_t first_row = 0;
  float scale = 1.0f;
  DevicePlan plan = {};
  void* workspace = nullptr;  // block_attention_workspace(...) bytes, 256-byte aligned; not for a full plan
};

// Whether the tensor-core kernel takes it on this device: bfloat16, head_dim 64, 96, 128 or 256, q_block 64
// or a multiple of 128, k_block 16, 32, 64 or 128.
bool supports_tensor_cores(const BlockAttentionParams& params);

std::int64_t block_attention_workspace(std::int64_t heads, std::int64_t queries);

// Aborts on shapes that contradict each other; throws Error when the device refuses.
void attend_blocks(const BlockAttentionParams& params, cudaStream_t stream);
// The same by the plain kernel, whatever the shape.
void attend_blocks_plain(const BlockAttentionParams& params, cudaStream_t stream);

}  // namespace winnow::cuda
