#include "backends/cuda/device.h"
#include "backends/cuda/sparse_attention.h"
#include "backends/cuda/sparse_attention_hopper.h"
#include "core/check.h"

namespace winnow::cuda {
namespace {

void check_params(const BlockAttentionParams& p) {
  const DevicePlan& plan = p.plan;
  check(p.dtype == DType::kBF16 || p.dtype == DType::kF32, "block attention: bf16 or float32");
  check(p.kv_heads > 0 && p.heads % p.kv_heads == 0, "block attention: heads are a multiple of kv heads");
  check(plan.heads == p.heads || plan.heads == p.kv_heads, "block attention: a plan per head or kv head");
  check(plan.q_block > 0 && plan.k_block > 0 && plan.query_blocks * plan.q_block >= p.queries,
        "block attention: the plan has all queries");
  check(plan.words >= plan_words(p.kv_rows, plan.k_block), "block attention: the plan has all keys");
  check(p.kv_rows < std::int64_t{1} << 30 && p.queries <= p.kv_rows,
        "block attention: queries sit in the cache");
  check(p.scale > 0, "block attention: the scale is positive");
}

bool is_hopper() {
  int device = 0, major = 0;
  check_cuda(cudaGetDevice(&device), "device");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  return major == 9;
}

}  // namespace

bool supports_tensor_cores(const BlockAttentionParams& params) { return hopper_takes(params) && is_hopper(); }

std::int64_t block_attention_workspace(std::int64_t heads, std::int64_t queries) {
  return hopper_workspace(heads * ((queries + 63) / 64));
}

void attend_blocks(const BlockAttentionParams& params, cudaStream_t stream) {
  check_params(params);
  if (params.queries == 0) return;
  if (supports_tensor_cores(params)) {
    attend_blocks_hopper(params, stream);
  } else {
    attend_blocks_plain(params, stream);
  }
}

}  // namespace winnow::cuda
