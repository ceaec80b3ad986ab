// One piece of decode attention (decode_attention.h), on AVX512_BF16.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace winnow::cpu {

constexpr std::int64_t kPieceRows = 128;  // a multiple of 32

// A piece of a kv head's cache, of any kind: which rows of it [begin, end) are seen, by how many query heads,
// and what comes out. begin is a multiple of kPieceRows, end - begin at most that.
struct PieceRange {
  std::int64_t heads;
  std::int64_t begin, end;
  std::int64_t first;  // rows before this one are not seen (a sliding window); less than end
  float scale_log2;    // of the scores, in units of log2
  // Out, for each head: the softmax's maximum (log2) and sum, and sum of p v, not divided yet.
  float* maximum;  // [heads]
  float* sum;      // [heads]
  float* out;      // [heads, head_dim]
};

// A piece of a cache in the layout of kv_layout.h.
struct PieceParams {
  PieceRange range;
  const BF16* q;  // [heads, head_dim], one after the other
  std::int64_t head_dim;
  const BF16 *k, *v;  // cache row 0 of the kv head
  const BF16* next;   // the keys of the piece that is computed next, fetched meanwhile
};

bool has_decode_kernel(std::int64_t head_dim);  // head_dim is even and the machine has the instructions
void attend_piece(const PieceParams& params);

}  // namespace winnow::cpu
