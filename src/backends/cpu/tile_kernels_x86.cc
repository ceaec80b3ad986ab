// Tile kernels for AVX512_BF16 and AMX. Compiled with function target attributes, so that the rest of the
// program stays runnable on machines without them; Debian's Highway 1.0.3 has neither vdpbf16ps nor AMX.
#include "backends/cpu/avx512.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/tile_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>

namespace winnow::cpu {
namespace {

#define WINNOW_AMX \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,amx-tile,amx-bf16")))

// ---- softmax
// ----------------------------------------------------------------------------------------------------

// Multiplies what a row has gathered so far by 2^(old maximum - new maximum).
WINNOW_AVX512 void raise_maximum(QueryTile& tile, std::int64_t q, float maximum, std::int64_t dim) {
  const float old = tile.maximum[q];
  tile.maximum[q] = maximum;
  if (std::isinf(old)) return;  // nothing gathered yet
  const __m512 factor = _mm512_set1_ps(std::exp2(old - maximum));
  _mm512_store_ps(tile.sums[q], _mm512_mul_ps(_mm512_load_ps(tile.sums[q]), factor));
  float* row = tile.o.as<float>() + q * dim;
  for (std::int64_t d = 0; d < dim; d += 16) {
    const __mmask16 lanes = lanes_below(dim - d);
    _mm512_mask_storeu_ps(row + d, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, row + d), factor));
  }
}

WINNOW_AVX512 inline void store_probabilities(float* row, std::int64_t key, __m512 low, __m512 high) {
  auto* p = reinterpret_cast<std::uint16_t*>(row) + key;
  _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
}

// One row in which every key is visible; `keys` is a multiple of 32.
WINNOW_AVX512 inline void softmax_row(float* row, std::int64_t keys, QueryTile& tile, std::int64_t q,
                                      float scale, std::int64_t dim) {
  const __m512 vscale = _mm512_set1_ps(scale);
  __m512 vmax = _mm512_set1_ps(tile.maximum[q]);
  __m512 m0 = _mm512_load_ps(row), m1 = _mm512_load_ps(row + 16);
  for (std::int64_t k = 32; k < keys; k += 32) {
    m0 = _mm512_max_ps(m0, _mm512_load_ps(row + k));
    m1 = _mm512_max_ps(m1, _mm512_load_ps(row + k + 16));
  }
  const __m512 excess = _mm512_fmsub_ps(_mm512_max_ps(m0, m1), vscale, vmax);
  if (_mm512_cmp_ps_mask(excess, _mm512_set1_ps(kRescaleSlack), _CMP_GT_OQ) != 0) [[unlikely]] {
    raise_maximum(tile, q, _mm512_reduce_max_ps(_mm512_max_ps(m0, m1)) * scale, dim);
    vmax = _mm512_set1_ps(tile.maximum[q]);
  }
  __m512 s0 = _mm512_load_ps(tile.sums[q]), s1 = _mm512_setzero_ps();
  for (std::int64_t k = 0; k < keys; k += 32) {
    const __m512 p0 = exp2_fast(_mm512_fmsub_ps(_mm512_load_ps(row + k), vscale, vmax));
    const __m512 p1 = exp2_fast(_mm512_fmsub_ps(_mm512_load_ps(row + k + 16), vscale, vmax));
    s0 = _mm512_add_ps(s0, p0);
    s1 = _mm512_add_ps(s1, p1);
    store_probabilities(row, k, p0, p1);
  }
  _mm512_store_ps(tile.sums[q], _mm512_add_ps(s0, s1));
}

WINNOW_AVX512 void clear_probabilities(float* row, std::int64_t keys) {
  for (std::int64_t k = 0; k < keys; k += 32)
    store_probabilities(row, k, _mm512_setzero_ps(), _mm512_setzero_ps());
}

// Keys of a step that a query sees.
struct SeenKeys {
  std::int64_t begin, end;
  WINNOW_AVX512 __mmask16 lanes(std::int64_t key) const {
    return _kandn_mask16(lanes_below(begin - key), lanes_below(end - key));
  }
};

// Probabilities 2^(row * scale - maximum) of the keys seen, whose highest score is `maximum`, and zeros for
// the others.
WINNOW_AVX512 void exponentials(float* row, std::int64_t keys, SeenKeys seen, QueryTile& tile, std::int64_t q,
                                float scale, float maximum, std::int64_t dim) {
  // A row that sees no key here may have seen none before: -infinity - -infinity.
  if (maximum == -INFINITY) return clear_probabilities(row, keys);
  if (maximum > tile.maximum[q] + kRescaleSlack) raise_maximum(tile, q, maximum, dim);
  const __m512 vscale = _mm512_set1_ps(scale), vmax = _mm512_set1_ps(tile.maximum[q]);
  __m512 sum = _mm512_load_ps(tile.sums[q]);
  const auto probability = [&](std::int64_t k) WINNOW_AVX512 {
    const __m512 x = _mm512_fmsub_ps(_mm512_load_ps(row + k), vscale, vmax);
    return _mm512_maskz_mov_ps(seen.lanes(k), exp2_fast(x));
  };
  for (std::int64_t k = 0; k < keys; k += 32) {
    const __m512 p0 = probability(k), p1 = probability(k + 16);
    sum = _mm512_add_ps(sum, _mm512_add_ps(p0, p1));
    store_probabilities(row, k, p0, p1);
  }
  _mm512_store_ps(tile.sums[q], sum);
}

// One row in which only some of the keys are seen.
WINNOW_AVX512 void softmax_row_masked(float* row, std::int64_t keys, SeenKeys seen, QueryTile& tile,
                                      std::int64_t q, float scale, std::int64_t dim) {
  __m512 m = _mm512_set1_ps(-INFINITY);
  for (std::int64_t k = seen.begin / 16 * 16; k < seen.end; k += 16) {
    m = _mm512_mask_max_ps(m, seen.lanes(k), m, _mm512_load_ps(row + k));
  }
  exponentials(row, keys, seen, tile, q, scale, _mm512_reduce_max_ps(m) * scale, dim);
}

// One row with a bias for every one of its `count` keys.
WINNOW_AVX512 void softmax_row_biased(float* row, std::int64_t keys, std::int64_t count, const float* bias,
                                      QueryTile& tile, std::int64_t q, float scale, std::int64_t dim) {
  const __m512 vscale = _mm512_set1_ps(scale);
  __m512 m = _mm512_set1_ps(-INFINITY);
  for (std::int64_t k = 0; k < count; k += 16) {
    const __m512 x = _mm512_fmadd_ps(_mm512_load_ps(row + k), vscale, _mm512_loadu_ps(bias + k));
    _mm512_store_ps(row + k, x);
    m = _mm512_max_ps(m, x);
  }
  exponentials(row, keys, {0, count}, tile, q, 1.0f, _mm512_reduce_max_ps(m), dim);
}

// Asks for a step's values while its softmax runs, which hardly reads memory: an equal part for every row.
// Plans jump about in the cache, where the hardware does not look ahead.
class ValuePrefetcher {
 public:
  ValuePrefetcher(const TileStep& step, std::int64_t dim)
      : base_(reinterpret_cast<const char*>(step.v)),
        rows_(step.rows),
        row_bytes_(dim * 2),
        left_(step.blocks),
        share_((step.blocks * kKeyBlock * row_bytes_ / 64 + step.tile->rows - 1) / step.tile->rows) {
    next_block();
  }
  WINNOW_AVX512 void next_part() {
    for (std::int64_t i = 0; i < share_; ++i, line_ += 64) {
      if (line_ >= end_ && !next_block()) return;
      _mm_prefetch(line_, _MM_HINT_T0);
    }
  }

 private:
  bool next_block() {
    if (left_ == 0) return false;
    --left_;
    line_ = base_ + *rows_++ * row_bytes_;
    end_ = line_ + kKeyBlock * row_bytes_;
    return true;
  }

  const char *base_, *line_ = nullptr, *end_ = nullptr;
  const std::int32_t* rows_;
  std::int64_t row_bytes_, left_, share_;
};

// Turns scores into probabilities 2^(s * scale - maximum): rows of bf16 in the place of their floats, zeros
// behind the last key up to a multiple of 32.
WINNOW_AVX512 void softmax_rows(const TileStep& step, float* s, float scale, std::int64_t dim) {
  QueryTile& tile = *step.tile;
  const std::int64_t keys = (step.keys() + 31) / 32 * 32;
  ValuePrefetcher values(step, dim);
  for (std::int64_t q = 0; q < tile.rows; ++q) {
    values.next_part();
    float* row = s + q * kScoreStride;
    if (step.bias != nullptr) {
      softmax_row_biased(row, keys, step.keys(), step.bias + q * step.bias_stride, tile, q, scale, dim);
      continue;
    }
    const SeenKeys seen{step.below(tile.firsts[q]), step.below(tile.limits[q])};
    if (seen.begin == 0 && seen.end == keys) [[likely]] {
      softmax_row(row, keys, tile, q, scale, dim);
    } else {
      softmax_row_masked(row, keys, seen, tile, q, scale, dim);
    }
  }
}

// ---- products on vdpbf16ps
// ----------------------------------------------------------------------------------------

WINNOW_AVX512 inline __m512bh load_pairs(const BF16* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}
WINNOW_AVX512 inline __m512bh broadcast_pair(const void* p) {
  std::int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

KeyBlocks key_blocks(const TileStep& step, const std::byte* base, std::int64_t dim) {
  return {base, dim * 2, step.rows, step.blocks};
}

constexpr int kRows = 8;  // queries of one register block
constexpr int kLanes =
    2;  // vectors of keys (or dims) of one register block; 8 x 2 sums, 2 operands: 18 of 32 registers

// `rows` is a multiple of kRows. With an odd number of blocks the scores of the last are written twice.
WINNOW_AVX512 void scores_avx512(const BF16* queries, std::int64_t rows, const KeyBlocks& blocks,
                                 std::int64_t dim, float* s, std::int64_t s_stride) {
  for (std::int32_t b = 0; b < blocks.count; b += kLanes) {
    const std::int64_t key = b * kKeyBlock;
    const BF16* block[kLanes] = {blocks.at<BF16>(b), blocks.at<BF16>(std::min(b + 1, blocks.count - 1))};
    for (std::int64_t row = 0; row < rows; row += kRows) {
      __m512 sum[kRows][kLanes];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
      for (std::int64_t d = 0; d < dim; d += 2) {
        const __m512bh k0 = load_pairs(block[0] + d * 16), k1 = load_pairs(block[1] + d * 16);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const __m512bh pair = broadcast_pair(queries + (row + r) * dim + d);
          sum[r][0] = _mm512_dpbf16_ps(sum[r][0], pair, k0);
          sum[r][1] = _mm512_dpbf16_ps(sum[r][1], pair, k1);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        _mm512_storeu_ps(s + (row + r) * s_stride + key, sum[r][0]);
        _mm512_storeu_ps(s + (row + r) * s_stride + key + 16, sum[r][1]);
      }
    }
  }
}

WINNOW_AVX512 void accumulate_avx512(const float* p, std::int64_t rows, const KeyBlocks& blocks,
                                     std::int64_t dim, float* o) {
  for (std::int64_t d = 0; d < dim; d += 16 * kLanes) {
    const __mmask16 mask[kLanes] = {lanes_below(dim - d), lanes_below(dim - d - 16)};
    for (std::int64_t row = 0; row < rows; row += kRows) {
      __m512 sum[kRows][kLanes];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        float* out = o + (row + r) * dim + d;
        sum[r][0] = _mm512_maskz_loadu_ps(mask[0], out);
        sum[r][1] = _mm512_maskz_loadu_ps(mask[1], out + 16);
      }
      for (std::int32_t b = 0; b < blocks.count; ++b) {
        const BF16* pairs = blocks.at<BF16>(b) + d * 2;
        const auto* probabilities =
            reinterpret_cast<const std::uint16_t*>(p + row * kScoreStride) + b * kKeyBlock;
        for (const std::uint16_t* end = probabilities + kKeyBlock; probabilities < end;
             probabilities += 2, pairs += 2 * dim) {
          const auto v0 = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi32(mask[0], pairs));
          const auto v1 = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi32(mask[1], pairs + 32));
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            const __m512bh pair = broadcast_pair(probabilities + r * 2 * kScoreStride);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], pair, v0);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], pair, v1);
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        float* out = o + (row + r) * dim + d;
        _mm512_mask_storeu_ps(out, mask[0], sum[r][0]);
        _mm512_mask_storeu_ps(out + 16, mask[1], sum[r][1]);
      }
    }
  }
}

WINNOW_AVX512 void attend_avx512(std::span<const TileStep> steps, std::int64_t dim, float scale, float* s) {
  for (const TileStep& step : steps) {
    const QueryTile& tile = *step.tile;
    const std::int64_t rows = (tile.rows + kRows - 1) / kRows * kRows;
    scores_avx512(tile.q.as<BF16>(), rows, key_blocks(step, step.k, dim), dim, s, kScoreStride);
    softmax_rows(step, s, scale, dim);
    accumulate_avx512(s, rows, key_blocks(step, step.v, dim), dim, tile.o.as<float>());
  }
}

WINNOW_AVX512 void all_scores_avx512(const void* q, const void* k, std::int64_t dim, std::int64_t keys,
                                     float* s, std::int64_t s_stride) {
  for_consecutive_blocks(k, dim * 2, keys, s, [&](const KeyBlocks& blocks, float* to) WINNOW_AVX512 {
    scores_avx512(static_cast<const BF16*>(q), kTileQueries, blocks, dim, to, s_stride);
  });
}

// ---- products on AMX
// ----------------------------------------------------------------------------------------------

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

WINNOW_AMX void enter_amx() {
  static constexpr TileConfig kConfig{};
  _tile_loadconfig(&kConfig);
}
WINNOW_AMX void leave_amx() { _tile_release(); }

// 32 queries x 32 keys a step: tiles 0-3 hold the sums, 4-5 queries, 6-7 keys. `dim` is a multiple of 32.
// With an odd number of blocks the scores of the last are written twice.
WINNOW_AMX void scores_amx(const BF16* queries, const KeyBlocks& blocks, std::int64_t dim, float* s,
                           std::int64_t s_stride) {
  const std::int64_t q_bytes = dim * 2, s_bytes = s_stride * 4;
  for (std::int32_t b = 0; b < blocks.count; b += 2, s += 32) {
    const BF16* k0 = blocks.at<BF16>(b);
    const BF16* k1 = blocks.at<BF16>(std::min(b + 1, blocks.count - 1));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (std::int64_t d = 0; d < dim; d += 32) {
      _tile_loadd(4, queries + d, q_bytes);
      _tile_loadd(6, k0 + d * 16, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, k1 + d * 16, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, queries + 16 * dim + d, q_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, s, s_bytes);
    _tile_stored(1, s + 16, s_bytes);
    _tile_stored(2, s + 16 * s_stride, s_bytes);
    _tile_stored(3, s + 16 * s_stride + 16, s_bytes);
  }
}

// The same for the commonest head_dim, 64: the four query tiles (2-5) stay in registers, 16 keys a step.
WINNOW_AMX void scores_amx_64(const BF16* queries, const KeyBlocks& blocks, float* s, std::int64_t s_stride) {
  constexpr std::int64_t kDim = 64, kQueryBytes = 2 * kDim;
  _tile_loadd(2, queries, kQueryBytes);
  _tile_loadd(3, queries + 32, kQueryBytes);
  _tile_loadd(4, queries + 16 * kDim, kQueryBytes);
  _tile_loadd(5, queries + 16 * kDim + 32, kQueryBytes);
  for (std::int32_t b = 0; b < blocks.count; ++b, s += 16) {
    const BF16* k = blocks.at<BF16>(b);
    _tile_loadd(6, k, 64);
    _tile_zero(0);
    _tile_dpbf16ps(0, 2, 6);
    _tile_zero(1);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, k + 512, 64);
    _tile_dpbf16ps(0, 3, 7);
    _tile_dpbf16ps(1, 5, 7);
    _tile_stored(0, s, s_stride * 4);
    _tile_stored(1, s + 16 * s_stride, s_stride * 4);
  }
}

// At most 16 queries, 32 keys a step.
WINNOW_AMX void scores_amx_16_rows(const BF16* queries, const KeyBlocks& blocks, std::int64_t dim, float* s,
                                   std::int64_t s_stride) {
  for (std::int32_t b = 0; b < blocks.count; b += 2, s += 32) {
    const BF16* k0 = blocks.at<BF16>(b);
    const BF16* k1 = blocks.at<BF16>(std::min(b + 1, blocks.count - 1));
    _tile_zero(0);
    _tile_zero(1);
    for (std::int64_t d = 0; d < dim; d += 32) {
      _tile_loadd(4, queries + d, dim * 2);
      _tile_loadd(6, k0 + d * 16, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, k1 + d * 16, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, s, s_stride * 4);
    _tile_stored(1, s + 16, s_stride * 4);
  }
}

// A tile of values is 32 rows one after the other. Blocks without their neighbour are moved together in
// `scratch` [kTileKeys, dim]; a last single one may be followed by rows that its probabilities, zeros, leave
// out.
WINNOW_AMX void gather_values(const TileStep& step, std::int64_t dim, BF16* scratch, const BF16** pairs) {
  const KeyBlocks blocks = key_blocks(step, step.v, dim);
  const std::int64_t elements = kKeyBlock * dim;
  const auto copy = [&](std::int32_t b, BF16* to) WINNOW_AMX {
    const BF16* from = blocks.at<BF16>(b);
    for (std::int64_t i = 0; i < elements; i += 32) _mm512_storeu_si512(to + i, _mm512_loadu_si512(from + i));
  };
  for (std::int32_t b = 0; b < blocks.count; b += 2, ++pairs, scratch += 2 * elements) {
    const bool single = b + 1 == blocks.count;
    const std::int32_t row = blocks.rows[b];
    if (single ? row % kCapacityStep == 0 : blocks.rows[b + 1] == row + kKeyBlock) {
      *pairs = blocks.at<BF16>(b);
      continue;
    }
    copy(b, scratch);
    copy(single ? b : b + 1, scratch + elements);
    *pairs = scratch;
  }
}

// 32 queries x 32 dims a step: four sums, so that their latencies overlap.
WINNOW_AMX void accumulate_amx(const float* p, const BF16* const* pairs, std::int64_t dim, std::int64_t keys,
                               float* o) {
  const auto* p0 = reinterpret_cast<const std::uint16_t*>(p);
  const auto* p1 = reinterpret_cast<const std::uint16_t*>(p + 16 * kScoreStride);
  const std::int64_t p_bytes = kScoreStride * 4, v_bytes = dim * 4, o_bytes = dim * 4;
  for (std::int64_t d = 0; d < dim; d += 32) {
    float* o0 = o + d;
    float* o1 = o0 + 16 * dim;
    _tile_loadd(0, o0, o_bytes);
    _tile_loadd(1, o0 + 16, o_bytes);
    _tile_loadd(2, o1, o_bytes);
    _tile_loadd(3, o1 + 16, o_bytes);
    for (std::int64_t key = 0; key < keys; key += 32) {
      const BF16* values = pairs[key / 32] + d * 2;
      _tile_loadd(4, p0 + key, p_bytes);
      _tile_loadd(6, values, v_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, values + 32, v_bytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, p1 + key, p_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, o0, o_bytes);
    _tile_stored(1, o0 + 16, o_bytes);
    _tile_stored(2, o1, o_bytes);
    _tile_stored(3, o1 + 16, o_bytes);
  }
}

// At most 16 queries x 64 dims a step, and 32 for what is left.
WINNOW_AMX void accumulate_amx_16_rows(const float* p, const BF16* const* pairs, std::int64_t dim,
                                       std::int64_t keys, float* o) {
  const auto* p0 = reinterpret_cast<const std::uint16_t*>(p);
  const std::int64_t p_bytes = kScoreStride * 4, v_bytes = dim * 4, o_bytes = dim * 4;
  for (std::int64_t d = 0; d < dim; d += 64, o += 64) {
    const bool four = d + 64 <= dim;
    _tile_loadd(0, o, o_bytes);
    _tile_loadd(1, o + 16, o_bytes);
    if (four) {
      _tile_loadd(2, o + 32, o_bytes);
      _tile_loadd(3, o + 48, o_bytes);
    }
    for (std::int64_t key = 0; key < keys; key += 32) {
      const BF16* values = pairs[key / 32] + d * 2;
      _tile_loadd(4, p0 + key, p_bytes);
      _tile_loadd(5, values, v_bytes);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(6, values + 32, v_bytes);
      _tile_dpbf16ps(1, 4, 6);
      if (!four) continue;
      _tile_loadd(7, values + 64, v_bytes);
      _tile_dpbf16ps(2, 4, 7);
      _tile_loadd(5, values + 96, v_bytes);
      _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, o, o_bytes);
    _tile_stored(1, o + 16, o_bytes);
    if (!four) return;
    _tile_stored(2, o + 32, o_bytes);
    _tile_stored(3, o + 48, o_bytes);
  }
}

WINNOW_AMX void scores_of_step(const TileStep& step, std::int64_t dim, float* s) {
  const auto* queries = step.tile->q.as<BF16>();
  const KeyBlocks blocks = key_blocks(step, step.k, dim);
  if (step.tile->rows <= 16) return scores_amx_16_rows(queries, blocks, dim, s, kScoreStride);
  if (dim == 64) return scores_amx_64(queries, blocks, s, kScoreStride);
  scores_amx(queries, blocks, dim, s, kScoreStride);
}

// Asks for the first lines of a step's blocks, one step ahead; the hardware goes on from there. Asking for
// all of them took longer than it saved.
WINNOW_AMX void announce(const TileStep& step, std::int64_t dim) {
  constexpr std::int64_t kLines = 4, kLineBytes = 64;
  for (const std::byte* base : {step.k, step.v}) {
    const KeyBlocks blocks = key_blocks(step, base, dim);
    for (std::int32_t b = 0; b < blocks.count; ++b) {
      for (std::int64_t i = 0; i < kLines; ++i)
        _mm_prefetch(blocks.at<char>(b) + i * kLineBytes, _MM_HINT_T1);
    }
  }
}

// Step after step: interleaving the matrix unit's work on one step with the vector unit's on another was
// tried and is slower (tile products and 512-bit arithmetic hardly overlap on Xeon; docs/kernels.md has the
// numbers).
WINNOW_AMX void attend_amx(std::span<const TileStep> steps, std::int64_t dim, float scale, float* s) {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const TileStep& step = steps[i];
    scores_of_step(step, dim, s);
    if (i + 1 < steps.size()) announce(steps[i + 1], dim);
    softmax_rows(step, s, scale, dim);
    const BF16* pairs[kStepBlocks / 2];
    gather_values(step, dim, reinterpret_cast<BF16*>(s + kScoreFloats), pairs);
    const auto accumulate = step.tile->rows <= 16 ? accumulate_amx_16_rows : accumulate_amx;
    accumulate(s, pairs, dim, step.keys(), step.tile->o.as<float>());
  }
}

WINNOW_AMX void all_scores_amx(const void* q, const void* k, std::int64_t dim, std::int64_t keys, float* s,
                               std::int64_t s_stride) {
  for_consecutive_blocks(k, dim * 2, keys, s, [&](const KeyBlocks& blocks, float* to) WINNOW_AMX {
    const auto* queries = static_cast<const BF16*>(q);
    dim == 64 ? scores_amx_64(queries, blocks, to, s_stride) : scores_amx(queries, blocks, dim, to, s_stride);
  });
}

constexpr TileKernels kAvx512Kernels{"AVX512_BF16",     DType::kBF16, 2,      attend_avx512,
                                     all_scores_avx512, nullptr,      nullptr};
constexpr TileKernels kAmxKernels{"AMX", DType::kBF16, 32, attend_amx, all_scores_amx, enter_amx, leave_amx};

}  // namespace

const TileKernels* avx512_bf16_tile_kernels() { return has_avx512_bf16() ? &kAvx512Kernels : nullptr; }
const TileKernels* amx_tile_kernels() { return has_amx_bf16() ? &kAmxKernels : nullptr; }

}  // namespace winnow::cpu

#else

namespace winnow::cpu {
const TileKernels* avx512_bf16_tile_kernels() { return nullptr; }
const TileKernels* amx_tile_kernels() { return nullptr; }
}  // namespace winnow::cpu

#endif
