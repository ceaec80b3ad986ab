// Attention over a BlockPlan: what the plan leaves out costs nothing.
//
// Called by attention(). Plans whose blocks are multiples of 16 queries by 16 keys run at full speed; others
// (for analysis) skip the stretches of 128 keys that nobody asks for and mask the rest.
#pragma once

#include "backends/backend.h"
#include "backends/cpu/tile_kernels.h"

namespace winnow::cpu {

// Whether the plan lists every block with something that a query sees, so that it changes nothing.
bool is_full(const BlockPlan& plan, std::span<const std::int64_t> query_rows,
             const SlidingWindow& window = {});

// params.plan is set; a full plan is run as any other.
void plan_attention(const AttentionParams& params, const TileKernels& kernels, int threads);

}  // namespace winnow::cpu
