#include "backends/cpu/decode_kernel.h"

#include "backends/cpu/avx512.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kv_layout.h"
#include "core/check.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

// g++ 12 takes the "undefined" operands inside its own intrinsics for uninitialised variables.
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace winnow::cpu {

bool has_decode_kernel(std::int64_t head_dim) { return has_avx512_bf16() && head_dim % 2 == 0; }

#if defined(__x86_64__)
namespace {

WINNOW_AVX512 inline __m512bh load_pairs(const BF16* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}
WINNOW_AVX512 inline __m512bh splat_pair(const BF16* p) {
  std::int32_t both;
  std::memcpy(&both, p, sizeof both);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
}
WINNOW_AVX512 inline __mmask16 lanes_between(std::int64_t begin, std::int64_t end) {
  return static_cast<__mmask16>(lanes_below(end) & ~lanes_below(begin));
}

// The cache is read once: what is needed next is fetched into L2 while the processor is at something else.
WINNOW_AVX512 inline void fetch(const BF16* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}

constexpr std::int64_t kLine = 32;  // elements of a cache line

// s[head][row] = scale q . k, 32 rows at a time: enough sums to hide the latency of the products.
template <int kHeads>
WINNOW_AVX512 void scores(const PieceParams& params, const BF16* q, std::int64_t rows,
                          float (*s)[kPieceRows]) {
  const std::int64_t dim = params.head_dim;
  const __m512 scale = _mm512_set1_ps(params.range.scale_log2);
  for (std::int64_t row = 0; row < rows; row += 2 * kKeyBlock) {
    const BF16 *first = params.k + (params.range.begin + row) * dim, *second = first + kKeyBlock * dim;
    __m512 sums[kHeads][2];
    for (auto& sum : sums) sum[0] = sum[1] = _mm512_setzero_ps();
    const BF16* v = params.v + (params.range.begin + row) * dim;
    for (std::int64_t d = 0; d < dim; d += 2) {
      fetch(v + d * kKeyBlock * 2);
      fetch(v + d * kKeyBlock * 2 + kLine);
      const __m512bh k0 = load_pairs(first + d * kKeyBlock), k1 = load_pairs(second + d * kKeyBlock);
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h) {
        const __m512bh qs = splat_pair(q + h * dim + d);
        sums[h][0] = _mm512_dpbf16_ps(sums[h][0], k0, qs);
        sums[h][1] = _mm512_dpbf16_ps(sums[h][1], k1, qs);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      _mm512_store_ps(s[h] + row, _mm512_mul_ps(sums[h][0], scale));
      _mm512_store_ps(s[h] + row + 16, _mm512_mul_ps(sums[h][1], scale));
    }
  }
}

// p[row] = 2^(s[row] - maximum) for rows [first, end), zeros for the others up to `rows`.
WINNOW_AVX512 void exponentials(const float* s, std::int64_t first, std::int64_t end, std::int64_t rows,
                                BF16* p, float& maximum, float& sum) {
  __m512 most = _mm512_set1_ps(-INFINITY);
  for (std::int64_t r = 0; r < end; r += 16) {
    most = _mm512_mask_max_ps(most, lanes_between(first - r, end - r), most, _mm512_load_ps(s + r));
  }
  maximum = _mm512_reduce_max_ps(most);
  const __m512 highest = _mm512_set1_ps(maximum);
  __m512 total = _mm512_setzero_ps();
  for (std::int64_t r = 0; r < rows; r += 32) {
    __m512 parts[2];
    for (std::int64_t i = 0; i < 2; ++i) {
      const std::int64_t at = r + 16 * i;
      const __m512 exponent = _mm512_sub_ps(_mm512_load_ps(s + at), highest);
      parts[i] = _mm512_maskz_mov_ps(lanes_between(first - at, end - at), exp2_fast(exponent));
    }
    total = _mm512_add_ps(total, _mm512_add_ps(parts[0], parts[1]));
    _mm512_storeu_si512(p + r, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(parts[1], parts[0])));
  }
  sum = _mm512_reduce_add_ps(total);
}

// out[head] = sum over the rows of p[head][row] v[row], 64 dimensions at a time.
template <int kHeads>
WINNOW_AVX512 void values(const PieceParams& params, const BF16 (*p)[kPieceRows], std::int64_t rows,
                          float* out) {
  constexpr int kVectors = 4;
  const std::int64_t dim = params.head_dim;
  for (std::int64_t d = 0; d < dim; d += 16 * kVectors) {
    __mmask16 lanes[kVectors];
    for (int j = 0; j < kVectors; ++j) lanes[j] = lanes_below(dim - d - 16 * j);
    __m512 sums[kHeads][kVectors];
    for (auto& head : sums) {
      for (__m512& sum : head) sum = _mm512_setzero_ps();
    }
    const BF16* v = params.v + params.range.begin * dim + 2 * d;
    const BF16* next = params.next + d * rows;
    for (std::int64_t r = 0; r < rows; r += 2, v += 2 * dim, next += kVectors * kLine) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) fetch(next + kLine * j);
      __m512bh vs[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        vs[j] = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi32(lanes[j], v + 32 * j));
      }
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h) {
        const __m512bh ps = splat_pair(p[h] + r);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[h][j] = _mm512_dpbf16_ps(sums[h][j], vs[j], ps);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      for (int j = 0; j < kVectors; ++j) {
        _mm512_mask_storeu_ps(out + h * dim + d + 16 * j, lanes[j], sums[h][j]);
      }
    }
  }
}

template <int kHeads>
WINNOW_AVX512 void attend_heads(const PieceParams& params, std::int64_t head) {
  alignas(64) float s[kHeads][kPieceRows];
  alignas(64) BF16 p[kHeads][kPieceRows];
  const std::int64_t end = params.range.end - params.range.begin, rows = (end + 31) / 32 * 32;
  const std::int64_t first = std::max<std::int64_t>(0, params.range.first - params.range.begin);
  scores<kHeads>(params, params.q + head * params.head_dim, rows, s);
  for (int h = 0; h < kHeads; ++h) {
    exponentials(s[h], first, end, rows, p[h], params.range.maximum[head + h], params.range.sum[head + h]);
  }
  values<kHeads>(params, p, rows, params.range.out + head * params.head_dim);
}

}  // namespace

// Four heads share what is loaded; more would not fit the registers.
void attend_piece(const PieceParams& params) {
  std::int64_t head = 0;
  for (; head + 4 <= params.range.heads; head += 4) attend_heads<4>(params, head);
  switch (params.range.heads - head) {
    case 3: return attend_heads<3>(params, head);
    case 2: return attend_heads<2>(params, head);
    case 1: return attend_heads<1>(params, head);
    default: return;
  }
}

#else

void attend_piece(const PieceParams&) { check(false, "attend_piece: has_decode_kernel()"); }

#endif

}  // namespace winnow::cpu
