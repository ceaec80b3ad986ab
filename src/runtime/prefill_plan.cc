#include "runtime/prefill_plan.h"

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

}  // namespace winnow
