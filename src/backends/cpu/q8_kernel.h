// One piece of decode attention (decode_attention.h) over a cache of KvType::kQ8 (q8_cache.h).
//
// Codes are read as they are, once for all query heads that share them; a scale multiplies what its codes
// were summed to. The portable kernel makes codes floats in registers. The one for VNNI multiplies integers:
// a query and the softmax's weights times the values' scales are rounded to 15 and 16 bits, each as two
// bytes, so that what is lost is small beside what 8 bits of the cache lose.
#pragma once

#include <cstdint>
#include <string_view>

#include "backends/cpu/decode_kernel.h"
#include "backends/cpu/q8_cache.h"
#include "backends/cpu/tile_kernels.h"

namespace winnow::cpu {

// One query head: as floats, and as scale * (128 high + low). Zeros from head_dim to the padded dimension.
struct Q8Query {
  alignas(64) float values[kMaxHeadDim];
  alignas(64) std::int8_t high[kMaxHeadDim], low[kMaxHeadDim];
  // -128 times the sums over the dimensions of a key's scale, for keys' codes are stored with 128 added.
  std::int32_t high_offset[kMaxHeadDim / kQ8KeyDims], low_offset[kMaxHeadDim / kQ8KeyDims];
  float scale;
};

// Of the one row of q [1, heads * head_dim], float or BF16, the head from `first_column` on.
void prepare_q8_query(const MatrixView& q, std::int64_t first_column, std::int64_t head_dim, Q8Query& query);

// As PieceParams (decode_kernel.h).
struct Q8Piece {
  PieceRange range;
  const Q8Query* q;  // [heads]
  Q8Head cache;
  const std::uint8_t* next;  // the next piece's keys and their scales
  const BF16* next_scales;
};

struct Q8Kernel {
  std::string_view name;
  void (*attend)(const Q8Piece& piece);
};

const Q8Kernel& choose_q8_kernel();       // the fastest for this machine
const Q8Kernel* avx512_vnni_q8_kernel();  // nullptr where the machine cannot run it
const Q8Kernel& portable_q8_kernel();

}  // namespace winnow::cpu
