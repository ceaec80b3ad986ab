// RowScores: the scores of single queries with a stretch of the cache, for everything that needs whole rows
// of the attention matrix rather than tiles of it. One thread's working memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "backends/cpu/cache_heads.h"
#include "backends/cpu/tile_kernels.h"

namespace winnow::cpu {

class RowScores {
 public:
  // `rows` of the cache at most.
  RowScores(const CacheHeads& heads, std::int64_t rows)
      : heads_(heads),
        stride_((rows + 31) / 32 * 32 + kStridePad),
        tile_(Buffer::host(kTileQueries * row_bytes())),
        s_(Buffer::host(kTileQueries * stride_ * 4)) {
    // Padded dimensions and rows without a query stay zero, or what an earlier tile left.
    std::memset(tile_.as<>(), 0, static_cast<std::size_t>(tile_.bytes()));
  }

  // Scores of queries [begin, begin + count) of one head with cache rows [first, end), which row(i) then
  // holds at their places; it is readable up to the next multiple of 32.
  void compute(const TileKernels& kernels, const LayerKv& kv, const MatrixView& q, std::int64_t head,
               std::int64_t begin, std::int64_t count, std::int64_t first, std::int64_t end) {
    for (std::int64_t i = 0; i < count; ++i) {
      heads_.copy_query(q, begin + i, head, tile_.as<>() + i * row_bytes());
    }
    const std::int64_t from = first / 32 * 32;
    kernels.scores(tile_.as<>(), heads_.keys(kv, head / heads_.group, from), heads_.padded_dim,
                   (end - from + 31) / 32 * 32, s_.as<float>() + from, stride_);
  }
  float* row(std::int64_t i) { return s_.as<float>() + i * stride_; }

 private:
  static constexpr std::int64_t kStridePad = 16;  // rows that begin 4 KiB apart would share cache sets
  std::int64_t row_bytes() const { return heads_.padded_dim * heads_.element_bytes; }

  CacheHeads heads_;
  std::int64_t stride_;
  Buffer tile_, s_;
};

}  // namespace winnow::cpu
