#include "backends/cpu/attention_tiles.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace winnow::cpu {

TileScratch::TileScratch(const CacheHeads& heads, std::int64_t tile_count)
    : tiles(static_cast<std::size_t>(tile_count)),
      scores(Buffer::host(scratch_floats(heads.padded_dim) * 4)) {
  for (QueryTile& tile : tiles) {
    tile.q = Buffer::host(kTileQueries * heads.padded_dim * heads.element_bytes);
    tile.o = Buffer::host(kTileQueries * heads.padded_dim * 4);
  }
}

void start_tile(QueryTile& tile, const AttentionParams& params, const CacheHeads& heads, HeadRange range,
                std::int64_t begin, std::int64_t end) {
  tile.rows = std::max<std::int64_t>(0, end - begin);
  tile.first = tile.limit = 0;
  if (tile.rows == 0) return;
  const bool padded = tile.rows < kTileQueries || heads.dim < heads.padded_dim;
  if (padded) std::memset(tile.q.as<>(), 0, static_cast<std::size_t>(tile.q.bytes()));
  const SlidingWindow window = params.kv->window(params.window);
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    const std::int64_t query = range.query(begin + i);
    heads.copy_query(params.q, query, range.head(begin + i),
                     tile.q.as<>() + i * heads.padded_dim * heads.element_bytes);
    tile.firsts[i] = window.first_row(params.query_rows[query]);
    tile.limits[i] = params.query_rows[query] + 1;
  }
  tile.first = tile.firsts[0];
  tile.limit = tile.limits[tile.rows - 1];
  std::memset(tile.o.as<>(), 0, static_cast<std::size_t>(tile.o.bytes()));
  std::memset(tile.sums, 0, sizeof tile.sums);
  std::fill_n(tile.maximum, kTileQueries, -std::numeric_limits<float>::infinity());
}

namespace {

template <class T>
void write_tile(const QueryTile& tile, const AttentionParams& params, const CacheHeads& heads,
                HeadRange range, std::int64_t begin) {
  T* out[kTileQueries];
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    out[i] = params.out.row<T>(range.query(begin + i)) + range.head(begin + i) * heads.dim;
  }
  write_rows(tile, heads.padded_dim, heads.dim, out);
}

}  // namespace

void finish_tile(const QueryTile& tile, const AttentionParams& params, const CacheHeads& heads,
                 HeadRange range, std::int64_t begin) {
  if (params.out.dtype == DType::kF32) {
    write_tile<float>(tile, params, heads, range, begin);
  } else {
    write_tile<BF16>(tile, params, heads, range, begin);
  }
}

void prefetch_tile(const AttentionParams& params, const CacheHeads& heads, HeadRange range,
                   std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kCacheLine = 64;
  for (std::int64_t pair = begin; pair < end; ++pair) {
    const std::int64_t query = range.query(pair), first = range.head(pair) * heads.dim * heads.element_bytes;
    for (std::int64_t i = 0; i < heads.dim * heads.element_bytes; i += kCacheLine) {
      __builtin_prefetch(params.q.row<std::byte>(query) + first + i);
      __builtin_prefetch(params.out.row<std::byte>(query) + first + i, 1);
    }
  }
}

}  // namespace winnow::cpu
