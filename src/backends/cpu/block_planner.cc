#include "backends/cpu/block_planner.h"

#include "core/check.h"

namespace winnow::cpu {

void attention_probs(const AttentionProbsParams&, const TileKernels&, int) {
  check(false, "attention_probs: being built");
}

std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams&, const TileKernels&, int) {
  check(false, "make_planner: being built");
  return nullptr;
}

}  // namespace winnow::cpu
