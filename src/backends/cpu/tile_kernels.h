// Tiled attention on the variants of SIMD and matrix instructions the CPU offers.
//
// FlashAttention's online softmax (arXiv 2205.14135): a tile of up to kTileQueries queries meets up to
// kTileKeys cache rows after the other, gathered from anywhere in the cache in blocks of kKeyBlock; each
// meeting is a TileStep: scores, softmax, accumulate. attention.cc and plan_attention.cc list the steps, one
// of the kernels here runs them. Keys and values are in the layout of kv_layout.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "backends/cpu/kv_layout.h"
#include "core/buffer.h"
#include "core/dtype.h"

namespace winnow::cpu {

constexpr std::int64_t kTileQueries = 32;
constexpr std::int64_t kTileKeys = 128;
constexpr std::int64_t kStepBlocks = kTileKeys / kKeyBlock;
constexpr std::int64_t kSumLanes = 16;
constexpr std::int64_t kMaxHeadDim = 512;

// The running softmax. A row's maximum, in units of log2, may lag behind the true one by up to kRescaleSlack:
// that spares most rescalings of the output and cancels in the final division.
constexpr float kRescaleSlack = 8.0f;

struct QueryTile {
  Buffer q, o;            // [kTileQueries, padded_dim] compute type and float32
  std::int64_t rows = 0;  // queries in use; q is zero behind them
  // Query i sees cache rows firsts[i] to limits[i] - 1; first and limit: what all queries see together.
  std::int64_t first = 0, limit = 0;
  std::int64_t firsts[kTileQueries], limits[kTileQueries];
  alignas(64) float maximum[kTileQueries];
  alignas(64) float sums[kTileQueries][kSumLanes];  // a row's sum is the sum over the lanes
};

struct TileStep {
  QueryTile* tile;
  const std::byte *k, *v;          // cache row 0 of the kv head
  std::int32_t rows[kStepBlocks];  // first cache rows of the key blocks, ascending
  std::int32_t blocks;             // in use, at least 1

  // Null: query i sees what the tile says. Otherwise bias[i * bias_stride + key] is added to the score,
  // in units of log2 and -infinity where query i does not see the key; the tile's limits are not looked at.
  const float* bias = nullptr;
  std::int64_t bias_stride = 0;

  std::int64_t keys() const { return blocks * kKeyBlock; }
  // How many of the step's keys lie below row `limit`: as rows ascend, the first ones.
  std::int64_t below(std::int64_t limit) const {
    if (limit <= rows[0]) return 0;
    if (rows[blocks - 1] + kKeyBlock <= limit) return keys();
    std::int64_t count = 0;
    for (std::int32_t b = 0; b < blocks; ++b) {
      count += std::clamp<std::int64_t>(limit - rows[b], 0, kKeyBlock);
    }
    return count;
  }
};

struct TileKernels {
  std::string_view name;
  DType dtype;                // of queries, keys and values
  std::int64_t dim_multiple;  // head_dim must be a multiple of this

  // Runs the steps in order. `scratch` holds scratch_floats(padded_dim).
  void (*attend)(std::span<const TileStep> steps, std::int64_t padded_dim, float scale_log2, float* scratch);

  // s[q][key] = q . k for all kTileQueries rows of `q` [kTileQueries, padded_dim] and `keys` rows (a multiple
  // of 32); `k` points to the first key block; s has s_stride floats a row.
  void (*scores)(const void* q, const void* k, std::int64_t padded_dim, std::int64_t keys, float* s,
                 std::int64_t s_stride);

  // Per-thread state of the matrix unit, around a series of calls. May be null.
  void (*enter)();
  void (*leave)();
};

// Scores of one step: rows of kScoreStride floats, so that consecutive rows do not fall into the same cache
// sets.
constexpr std::int64_t kScoreStride = kTileKeys + 16;
constexpr std::int64_t kScoreFloats = kTileQueries * kScoreStride;
// The scores, and behind them values that are moved together for the matrix unit.
constexpr std::int64_t scratch_floats(std::int64_t padded_dim) {
  return kScoreFloats + kTileKeys * padded_dim / 2;
}

// Key blocks of one kv head, whose row r begins at base + r * row_bytes.
struct KeyBlocks {
  const std::byte* base;
  std::int64_t row_bytes;
  const std::int32_t* rows;
  std::int32_t count;

  template <class T>
  const T* at(std::int32_t block) const {
    return reinterpret_cast<const T*>(base + rows[block] * row_bytes);
  }
};

// Calls scores(blocks, s) for consecutive key blocks from `k` on, at most kStepBlocks at a time.
template <class Scores>
void for_consecutive_blocks(const void* k, std::int64_t row_bytes, std::int64_t keys, float* s,
                            Scores scores) {
  constexpr std::int32_t kRows[kStepBlocks] = {0, 16, 32, 48, 64, 80, 96, 112};
  static_assert(kKeyBlock == 16);
  for (std::int64_t key = 0; key < keys; key += kTileKeys) {
    const auto count = static_cast<std::int32_t>(std::min(kTileKeys, keys - key) / kKeyBlock);
    scores(KeyBlocks{static_cast<const std::byte*>(k) + key * row_bytes, row_bytes, kRows, count}, s + key);
  }
}

// Divides every row of `o` by its sum and stores its first `dim` elements at out[row], to nearest even; zeros
// where the sum is zero.
void write_rows(const QueryTile& tile, std::int64_t padded_dim, std::int64_t dim, float* const* out);
void write_rows(const QueryTile& tile, std::int64_t padded_dim, std::int64_t dim, BF16* const* out);

// The fastest kernels for this machine, dtype and head dimension.
const TileKernels& choose_tile_kernels(DType dtype, std::int64_t head_dim);

// Single variants; nullptr where the machine cannot run them. The portable ones always exist.
const TileKernels* amx_tile_kernels();
const TileKernels* avx512_bf16_tile_kernels();
const TileKernels& portable_bf16_tile_kernels();
const TileKernels& portable_f32_tile_kernels();

}  // namespace winnow::cpu
