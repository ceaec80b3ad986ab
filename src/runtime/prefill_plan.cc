#include "runtime/prefill_plan.h"

#include <algorithm>
#include <span>

#include "model/decoder_layer.h"
#include "sparsity/token_pruner.h"

namespace winnow {

std::vector<std::int64_t> rows_by_layer(const Policy& policy, std::int64_t layers, std::int64_t tokens) {
  std::vector<std::int64_t> rows;
  auto stage = policy.tokens.stages.begin();
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    if (stage != policy.tokens.stages.end() && stage->layer == layer) {
      if (!stage->top_p) tokens = keep_count(tokens, stage->keep, policy.tokens);
      ++stage;
    }
    rows.push_back(tokens);
  }
  return rows;
}

namespace {

// What a planner keeps of a cache of `rows`: pooled keys, strided keys, means of blocks.
std::int64_t planner_bytes(const Architecture& arch, const Backend& backend, const BlockRule& rule,
                           std::int64_t rows) {
  std::int64_t bytes = 0;
  if (rule.estimator == BlockEstimator::kPooled) {
    bytes += block_count(rows, rule.pool) * (1 + rule.outliers) * arch.kv_heads * arch.head_dim * 4;
  }
  if (rule.estimator == BlockEstimator::kAntidiagonal) {
    bytes += backend.kv_bytes(arch.kv_heads, arch.head_dim, rows) / 2;  // the keys, in another order
  }
  if (rule.mean_correction) bytes += backend.kv_bytes(arch.kv_heads, arch.head_dim, rows / rule.k_block);
  return bytes;
}

// The plan of a layer that lists every causal block, and the estimates behind a chunk of it.
std::int64_t plan_bytes(const Architecture& arch, const Backend& backend, const BlockRule& rule,
                        std::int64_t rows) {
  const auto blocks = [&](std::int64_t queries) {
    return arch.heads * block_count(queries, rule.q_block) * block_count(rows, rule.k_block);
  };
  constexpr std::int64_t kListed = 4, kEstimate = 4;
  const std::int64_t estimates =
      rule.estimator == BlockEstimator::kNone ? 0 : kEstimate * blocks(std::min(rows, backend.chunk_rows()));
  return kListed * blocks(rows) / 2 + estimates;
}

// One layer is planned at a time; decoding over selected blocks keeps a planner for each.
std::int64_t planning_bytes(const Architecture& arch, const Backend& backend, const AttentionPolicy& policy,
                            std::span<const std::int64_t> layer_rows, std::int64_t new_tokens) {
  if (policy.dense()) return 0;
  std::int64_t one = 0, all = 0;
  for (const std::int64_t rows : layer_rows) {
    one = std::max(
        one, planner_bytes(arch, backend, policy.rule, rows) + plan_bytes(arch, backend, policy.rule, rows));
    all += planner_bytes(arch, backend, policy.rule, rows + new_tokens);
  }
  return one + (policy.decode == DecodeMode::kSelected ? all : 0);
}

}  // namespace

MemoryEstimate estimate_memory(std::int64_t weights, const Architecture& arch, const Backend& backend,
                               std::int64_t prompt_tokens, std::int64_t new_tokens, const Policy& policy,
                               std::int64_t first_layer, KvType type, std::int64_t earlier_rows) {
  const DType compute = backend.compute_dtype();
  MemoryEstimate estimate;
  estimate.weights = weights;
  std::vector<std::int64_t> layer_rows = rows_by_layer(policy, first_layer + arch.layers, prompt_tokens);
  layer_rows.erase(layer_rows.begin(), layer_rows.begin() + first_layer);
  for (const std::int64_t rows : layer_rows) {
    estimate.kv += backend.cache_bytes(type, arch.kv_heads, arch.head_dim, rows + new_tokens);
  }
  estimate.activations = prompt_tokens * (4 * arch.model_dim + dtype_bytes(compute, arch.q_dim())) +
                         Workspace::bytes(arch, compute, backend.chunk_rows()) +
                         planning_bytes(arch, backend, policy.attention, layer_rows, new_tokens);
  if (type != KvType::kSame && !layer_rows.empty()) {
    estimate.activations += backend.kv_bytes(arch.kv_heads, arch.head_dim, earlier_rows + layer_rows.front());
  }
  return estimate;
}

}  // namespace winnow
