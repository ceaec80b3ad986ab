// Decode attention over q8 caches on AVX-512 VNNI (vpdpbusd: 64 products of bytes). As decode_kernel.cc, what
// is needed next is fetched into L2 meanwhile.
#include "backends/cpu/avx512.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/decode_kernel.h"
#include "backends/cpu/q8_kernel.h"

#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

// g++ 12 takes the "undefined" operands inside its own intrinsics for uninitialised variables.
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace winnow::cpu {
namespace {

WINNOW_AVX512_VNNI inline __m512i load_codes(const void* p) { return _mm512_loadu_si512(p); }
WINNOW_AVX512_VNNI inline __m512i splat_four(const void* p) {
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}
WINNOW_AVX512_VNNI inline __m512 load_scales(const BF16* p) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
// to_floats(2^kBits high + low)
template <int kBits>
WINNOW_AVX512_VNNI inline __m512 combine(__m512i high, __m512i low) {
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, kBits), low));
}
WINNOW_AVX512_VNNI inline __mmask16 lanes_between(std::int64_t begin, std::int64_t end) {
  return static_cast<__mmask16>(lanes_below(end) & ~lanes_below(begin));
}
inline void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }  // into L2

constexpr std::int64_t kLine = 64;

// s[head][row] = scale q . k, 32 rows at a time.
template <int kHeads>
WINNOW_AVX512_VNNI void scores(const Q8Piece& piece, const Q8Query* q, std::int64_t rows,
                               float (*s)[kPieceRows]) {
  const Q8Layout& layout = piece.cache.layout;
  const std::int64_t dims = layout.padded_dim(), block = kKeyBlock * dims;
  for (std::int64_t row = 0; row < rows; row += 2 * kKeyBlock) {
    const std::uint8_t* k = piece.cache.k + (piece.range.begin + row) * dims;
    const BF16* scales = piece.cache.k_scales + layout.key_scale_index(piece.range.begin + row, 0);
    const std::int8_t* v = piece.cache.v + (piece.range.begin + row) * dims;
    __m512 sums[kHeads][2];
    for (auto& sum : sums) sum[0] = sum[1] = _mm512_setzero_ps();
    for (std::int64_t first = 0; first < dims; first += kQ8KeyDims) {
      const std::int64_t group = first / kQ8KeyDims;
      __m512i high[kHeads][2], low[kHeads][2];
      for (int h = 0; h < kHeads; ++h) {
        high[h][0] = high[h][1] = _mm512_set1_epi32(q[h].high_offset[group]);
        low[h][0] = low[h][1] = _mm512_set1_epi32(q[h].low_offset[group]);
      }
      for (std::int64_t d = first; d < std::min(dims, first + kQ8KeyDims); d += 4, v += 2 * kLine) {
        fetch(v);
        fetch(v + kLine);
        const __m512i k0 = load_codes(k + d * kKeyBlock), k1 = load_codes(k + block + d * kKeyBlock);
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h) {
          const __m512i qh = splat_four(q[h].high + d), ql = splat_four(q[h].low + d);
          high[h][0] = _mm512_dpbusd_epi32(high[h][0], k0, qh);
          high[h][1] = _mm512_dpbusd_epi32(high[h][1], k1, qh);
          low[h][0] = _mm512_dpbusd_epi32(low[h][0], k0, ql);
          low[h][1] = _mm512_dpbusd_epi32(low[h][1], k1, ql);
        }
      }
      const BF16* of_group = scales + group * kKeyBlock;
      const __m512 scale0 = load_scales(of_group),
                   scale1 = load_scales(of_group + layout.key_scales() * kKeyBlock);
      for (int h = 0; h < kHeads; ++h) {
        sums[h][0] = _mm512_fmadd_ps(combine<7>(high[h][0], low[h][0]), scale0, sums[h][0]);
        sums[h][1] = _mm512_fmadd_ps(combine<7>(high[h][1], low[h][1]), scale1, sums[h][1]);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      const __m512 scale = _mm512_set1_ps(piece.range.scale_log2 * q[h].scale);
      _mm512_store_ps(s[h] + row, _mm512_mul_ps(sums[h][0], scale));
      _mm512_store_ps(s[h] + row + 16, _mm512_mul_ps(sums[h][1], scale));
    }
  }
}

constexpr std::int32_t kWeightLevels = 65535;  // the most that two bytes hold
static_assert(std::int64_t{kWeightLevels} * 127 * kPieceRows <= std::numeric_limits<std::int32_t>::max(),
              "a piece's weights times codes of values, which combine<8> adds up in 32 bits");

// The softmax's weights times the scales of values, as step * (256 high + low).
struct Weights {
  alignas(64) std::uint8_t high[kPieceRows], low[kPieceRows];
  float step;
};

// Of the scores s of rows [first, end); nothing of the others up to `rows`. Overwrites s.
WINNOW_AVX512_VNNI void weigh(const Q8Piece& piece, float* s, std::int64_t first, std::int64_t end,
                              std::int64_t rows, Weights& weights, float& maximum, float& sum) {
  __m512 most = _mm512_set1_ps(-INFINITY);
  for (std::int64_t r = 0; r < end; r += 16) {
    most = _mm512_mask_max_ps(most, lanes_between(first - r, end - r), most, _mm512_load_ps(s + r));
  }
  maximum = _mm512_reduce_max_ps(most);
  const __m512 highest = _mm512_set1_ps(maximum);
  __m512 total = _mm512_setzero_ps(), heaviest = _mm512_setzero_ps();
  for (std::int64_t r = 0; r < rows; r += 16) {
    const __mmask16 seen = lanes_between(first - r, end - r);
    const __m512 p = _mm512_maskz_mov_ps(seen, exp2_fast(_mm512_sub_ps(_mm512_load_ps(s + r), highest)));
    total = _mm512_add_ps(total, p);
    const __m512 w = _mm512_maskz_mul_ps(seen, p, load_scales(piece.cache.v_scales + piece.range.begin + r));
    heaviest = _mm512_max_ps(heaviest, w);
    _mm512_store_ps(s + r, w);
  }
  sum = _mm512_reduce_add_ps(total);
  const float heavy = _mm512_reduce_max_ps(heaviest);
  weights.step = heavy / kWeightLevels;
  const __m512 levels = _mm512_set1_ps(heavy > 0 ? kWeightLevels / heavy : 0.0f);
  for (std::int64_t r = 0; r < rows; r += 16) {
    const __m512i level = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(s + r), levels));
    const __m128i high = _mm512_cvtepi32_epi8(_mm512_srli_epi32(level, 8)), low = _mm512_cvtepi32_epi8(level);
    _mm_store_si128(reinterpret_cast<__m128i*>(weights.high + r), high);
    _mm_store_si128(reinterpret_cast<__m128i*>(weights.low + r), low);
  }
}

// Dimensions [d, d + 16 kVectors) of out[head] = sum over the rows of weights[head][row] v[row].
template <int kHeads, int kVectors>
WINNOW_AVX512_VNNI void values(const Q8Piece& piece, const Weights* weights, std::int64_t rows,
                               std::int64_t d, float* out) {
  const std::int64_t dim = piece.cache.layout.head_dim, dims = piece.cache.layout.padded_dim();
  __m512i high[kHeads][kVectors], low[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h) {
    for (int j = 0; j < kVectors; ++j) high[h][j] = low[h][j] = _mm512_setzero_si512();
  }
  const std::int8_t* v = piece.cache.v + piece.range.begin * dims + 4 * d;
  const std::uint8_t* next = piece.next + d * rows;
  for (std::int64_t r = 0; r < rows; r += 4, v += 4 * dims, next += kVectors * kLine) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) fetch(next + kLine * j);
    __m512i vs[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) vs[j] = load_codes(v + kLine * j);
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) {
      const __m512i wh = splat_four(weights[h].high + r), wl = splat_four(weights[h].low + r);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) {
        high[h][j] = _mm512_dpbusd_epi32(high[h][j], wh, vs[j]);
        low[h][j] = _mm512_dpbusd_epi32(low[h][j], wl, vs[j]);
      }
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    const __m512 step = _mm512_set1_ps(weights[h].step);
    for (int j = 0; j < kVectors; ++j) {
      const std::int64_t at = d + 16 * j;
      _mm512_mask_storeu_ps(out + h * dim + at, lanes_below(dim - at),
                            _mm512_mul_ps(combine<8>(high[h][j], low[h][j]), step));
    }
  }
}

// What follows the codes: the scales of this piece's values, and of the next one's keys.
void fetch_scales(const Q8Piece& piece) {
  const auto* v_scales = reinterpret_cast<const std::byte*>(piece.cache.v_scales + piece.range.begin);
  for (std::int64_t i = 0; i < 2 * kPieceRows; i += kLine) fetch(v_scales + i);
  const auto* k_scales = reinterpret_cast<const std::byte*>(piece.next_scales);
  for (std::int64_t i = 0; i < 2 * kPieceRows * piece.cache.layout.key_scales(); i += kLine) {
    fetch(k_scales + i);
  }
}

template <int kHeads>
WINNOW_AVX512_VNNI void attend_heads(const Q8Piece& piece, std::int64_t head) {
  alignas(64) float s[kHeads][kPieceRows];
  Weights weights[kHeads];
  const std::int64_t end = piece.range.end - piece.range.begin, rows = (end + 31) / 32 * 32;
  const std::int64_t first = std::max<std::int64_t>(0, piece.range.first - piece.range.begin);
  scores<kHeads>(piece, piece.q + head, rows, s);
  for (int h = 0; h < kHeads; ++h) {
    weigh(piece, s[h], first, end, rows, weights[h], piece.range.maximum[head + h],
          piece.range.sum[head + h]);
  }
  const std::int64_t dims = piece.cache.layout.padded_dim();
  float* out = piece.range.out + head * piece.cache.layout.head_dim;
  for (std::int64_t d = 0; d < dims; d += 32) {
    if (d + 32 <= dims) {
      values<kHeads, 2>(piece, weights, rows, d, out);
    } else {
      values<kHeads, 1>(piece, weights, rows, d, out);
    }
  }
}

// Four heads share what is loaded; more would not fit the registers.
WINNOW_AVX512_VNNI void attend(const Q8Piece& piece) {
  fetch_scales(piece);
  std::int64_t head = 0;
  for (; head + 4 <= piece.range.heads; head += 4) attend_heads<4>(piece, head);
  switch (piece.range.heads - head) {
    case 3: return attend_heads<3>(piece, head);
    case 2: return attend_heads<2>(piece, head);
    case 1: return attend_heads<1>(piece, head);
    default: return;
  }
}

}  // namespace

const Q8Kernel* avx512_vnni_q8_kernel() {
  static const Q8Kernel kernel = {"AVX-512 VNNI", attend};
  return has_avx512_vnni() ? &kernel : nullptr;
}

}  // namespace winnow::cpu

#else

namespace winnow::cpu {
const Q8Kernel* avx512_vnni_q8_kernel() { return nullptr; }
}  // namespace winnow::cpu

#endif
