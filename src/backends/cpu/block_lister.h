// BlockLister: one estimator of the CPU planner. The planner (block_planner.cc) shares out query blocks over
// threads and forces sink and local blocks; a lister adds the blocks it finds worth computing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backends/backend.h"
#include "backends/block_choice.h"
#include "backends/cpu/cache_heads.h"

namespace winnow::cpu {

// What every lister is made from. `params` outlives it.
struct ListerParams {
  const BlockPlannerParams& params;
  const TileKernels& kernels;
  CacheHeads heads;
  int threads;
};

// One call of BlockPlanner::plan.
struct PlanCall {
  MatrixView q;
  std::span<const std::int64_t> query_rows;
};

class BlockLister {
 public:
  virtual ~BlockLister() = default;
  // Follows the cache to its present rows, on all threads. Before every plan.
  virtual void extend() {}
  // Query blocks [begin, end) of one head: adds to their sets, which hold what is forced. Called on `thread`
  // after TileKernels::enter, for other blocks on other threads at the same time.
  virtual void list(const PlanCall& call, std::int64_t head, std::int64_t begin, std::int64_t end, int thread,
                    BlockSets& sets) = 0;
};

std::unique_ptr<BlockLister> make_exact_lister(const ListerParams& params);
std::unique_ptr<BlockLister> make_pooled_lister(const ListerParams& params);
std::unique_ptr<BlockLister> make_antidiagonal_lister(const ListerParams& params);
std::unique_ptr<BlockLister> make_vertical_slash_lister(const ListerParams& params);

}  // namespace winnow::cpu
