// Query tiles as the dense and the planned attention of the CPU backend fill and empty them, and how tasks
// are shared out over threads.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/cache_heads.h"
#include "backends/cpu/tile_kernels.h"

namespace winnow::cpu {

// Query heads [first, first + count) of one kv head. What a tile holds are their pairs (query, head),
// numbered query * count + head - first: heads lie side by side, so that a tile spans few positions (little
// work is lost on the diagonal) and one decoded token's heads share a tile.
struct HeadRange {
  std::int64_t first, count;
  std::int64_t query(std::int64_t pair) const { return pair / count; }
  std::int64_t head(std::int64_t pair) const { return first + pair % count; }
};

// One thread's working memory.
struct TileScratch {
  std::vector<QueryTile> tiles;
  std::vector<TileStep> steps;
  Buffer scores;  // and what else the kernels need: scratch_floats()

  TileScratch(const CacheHeads& heads, std::int64_t tile_count);
};

// Fills `tile` with pairs [begin, end), at most kTileQueries; an empty tile has limit 0.
void start_tile(QueryTile& tile, const AttentionParams& params, const CacheHeads& heads, HeadRange range,
                std::int64_t begin, std::int64_t end);

// Asks for the memory that start_tile() will read and finish_tile() write.
void prefetch_tile(const AttentionParams& params, const CacheHeads& heads, HeadRange range,
                   std::int64_t begin, std::int64_t end);

// Divides by the softmax's sums and writes the rows of `out`; zeros for a query that saw nothing.
void finish_tile(const QueryTile& tile, const AttentionParams& params, const CacheHeads& heads,
                 HeadRange range, std::int64_t begin);

}  // namespace winnow::cpu
