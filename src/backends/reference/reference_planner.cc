#include "backends/reference/reference_ops.h"
#include "core/check.h"

namespace winnow::reference {

void attention_probs(const AttentionProbsParams&) { check(false, "attention_probs: being built"); }

std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams&) {
  check(false, "make_planner: being built");
  return nullptr;
}

}  // namespace winnow::reference
