// Choosing attention blocks on the GPU: what BlockPlanner does (backends/backend.h), from queries and keys in
// device memory to the bits of a DevicePlan, with nothing coming back to the host.
//
// Called by the CUDA backend and bench/gpu. Device pointers and strides come in, all work is queued on the
// caller's stream, nothing is allocated. A layer: summarise_keys() once its keys exist, average_blocks() with
// mean correction, then list_blocks() for each run of queries. The definitions are those of block_plan.h;
// plans equal the reference planner's up to ties and rounding.
//
// Inside, an estimate is made of logarithms: for each asked query and key block, log2 of the sum over the
// block of e^(scale q.k) (of what stands for the keys). In bfloat16 on Hopper with the tensor cores for
// kPooled without variance, kExact by mass and kAntidiagonal (block_scores_hopper.cu), plainly for the rest
// (block_scores_plain.cu). The choice is one kernel (block_choice.cu).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/block_plan.h"
#include "backends/cuda/sparse_attention.h"
#include "core/dtype.h"

namespace winnow::cuda {

struct PlanningParams {
  BlockRule rule;
  DType dtype = DType::kBF16;  // of queries, keys and values
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0, kv_rows = 0;
  const void* k = nullptr;  // [kv_heads, kv_rows] of [head_dim], in either order; strides in elements
  const void* v = nullptr;  // for average_blocks() only
  std::int64_t kv_row_stride = 0, kv_head_stride = 0;
  float scale = 1.0f;
  std::int64_t dense_from_row = -1;   // as in BlockPlannerParams
  const float* thresholds = nullptr;  // device [heads]
  const void* last_q = nullptr;       // kVerticalSlash: as in BlockPlannerParams
  std::int64_t last_q_row_stride = 0, last_queries = 0;
};

struct PlanningQueries {
  const void* q = nullptr;  // [queries] rows of [heads, head_dim]
  std::int64_t q_row_stride = 0, queries = 0;
  const std::int32_t* query_rows = nullptr;  // device [queries] ascending cache rows; null: first_row + i
  std::int64_t first_row = 0;
};

// Bytes that summarise_keys() fills: pooled keys, strided keys, stripes. All device memory handed in is
// 256-byte aligned.
std::int64_t summary_bytes(const PlanningParams& params);
void summarise_keys(const PlanningParams& params, void* summary, cudaStream_t stream);

// Bytes that list_blocks() works in.
std::int64_t planning_workspace(const PlanningParams& params, std::int64_t queries);
// Fills listed [plan heads, query blocks, plan_words(kv_rows, k_block)]; plan heads are kv_heads with
// group_union, else heads.
void list_blocks(const PlanningParams& params, const void* summary, const PlanningQueries& queries,
                 std::uint32_t* listed, void* workspace, cudaStream_t stream);

// Mean key and value of every full key block: [kv_heads, kv_rows / k_block, head_dim] each, dtype of the
// cache.
void average_blocks(const PlanningParams& params, void* mean_k, void* mean_v, cudaStream_t stream);

// Adds to *pairs the (query, key) pairs of a plan, over all its heads (PlanWork::computed times heads).
void count_pairs(const PlanningParams& params, const PlanningQueries& queries, std::int64_t plan_heads,
                 const std::uint32_t* listed, unsigned long long* pairs, cudaStream_t stream);

}  // namespace winnow::cuda
