#include "runtime/prefill_plan.h"

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

MemoryEstimate estimate_memory(const Architecture& arch, const Backend& backend, std::int64_t prompt_tokens,
                               std::int64_t new_tokens, const Policy& policy) {
  const DType compute = backend.compute_dtype();
  MemoryEstimate estimate;
  estimate.weights = dtype_bytes(compute, arch.matrix_elements());
  for (const std::int64_t rows : rows_by_layer(policy, arch.layers, prompt_tokens)) {
    estimate.kv += backend.kv_bytes(arch.kv_heads, arch.head_dim, rows + new_tokens);
  }
  estimate.activations = prompt_tokens * (4 * arch.model_dim + dtype_bytes(compute, arch.q_dim())) +
                         Workspace::bytes(arch, compute, kChunkRows);
  return estimate;
}

}  // namespace winnow
