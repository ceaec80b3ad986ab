// Tiled attention on the variants of SIMD and matrix instructions the CPU offers.
//
// FlashAttention's online softmax (arXiv 2205.14135): a tile of up to kTileQueries queries meets one block of
// up to kTileKeys consecutive cache rows after the other; each meeting is a TileStep: scores, softmax,
// accumulate. attention.cc lists the steps, one of the kernels here runs them. Keys and values are in the
// layout of kv_layout.h.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/buffer.h"
#include "core/dtype.h"

namespace winnow::cpu {

constexpr std::int64_t kTileQueries = 32;
constexpr std::int64_t kTileKeys = 128;
constexpr std::int64_t kSumLanes = 16;
constexpr std::int64_t kMaxHeadDim = 512;

// The running softmax. A row's maximum, in units of log2, may lag behind the true one by up to kRescaleSlack:
// that spares most rescalings of the output and cancels in the final division.
constexpr float kRescaleSlack = 8.0f;

struct QueryTile {
  Buffer q, o;                        // [kTileQueries, padded_dim] compute type and float32
  std::int64_t rows = 0;              // queries in use; q is zero behind them
  std::int64_t limit = 0;             // the largest of limits
  std::int64_t limits[kTileQueries];  // query i sees cache rows below limits[i]
  alignas(64) float maximum[kTileQueries];
  alignas(64) float sums[kTileQueries][kSumLanes];  // a row's sum is the sum over the lanes
};

struct TileStep {
  QueryTile* tile;
  const void* k;       // first key block
  const void* v;       // first row of values
  std::int64_t first;  // cache row of the first key
  std::int64_t keys;   // a multiple of 32, at most kTileKeys
};

struct TileKernels {
  std::string_view name;
  DType dtype;                // of queries, keys and values
  std::int64_t dim_multiple;  // head_dim must be a multiple of this

  // Runs the steps in order. `scratch` holds kScratchFloats.
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
constexpr std::int64_t kScratchFloats = kTileQueries * kScoreStride;

// The fastest kernels for this machine, dtype and head dimension.
const TileKernels& choose_tile_kernels(DType dtype, std::int64_t head_dim);

// Single variants; nullptr where the machine cannot run them. The portable ones always exist.
const TileKernels* amx_tile_kernels();
const TileKernels* avx512_bf16_tile_kernels();
const TileKernels& portable_bf16_tile_kernels();
const TileKernels& portable_f32_tile_kernels();

}  // namespace winnow::cpu
