// Quantised products on AVX-512 VNNI: vpdpbusd multiplies 64 unsigned by 64 signed bytes.
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/stored_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

// g++ 12 takes the "undefined" operands inside its own intrinsics for uninitialised variables.
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace winnow::cpu {
namespace {

// g++ would vectorise with half the width otherwise; clang does not know the word, and would ignore the whole
// attribute for it.
#if defined(__clang__)
#define WINNOW_STORED_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")))
#else
#define WINNOW_STORED_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c,prefer-vector-width=512")))
#endif
#define WINNOW_STORED_INLINE WINNOW_STORED_TARGET inline __attribute__((always_inline))

using Floats = __m512;
using Ints = __m512i;
using Bytes = __m512i;

WINNOW_STORED_INLINE Floats splat(float value) { return _mm512_set1_ps(value); }
WINNOW_STORED_INLINE Ints splat(std::int32_t value) { return _mm512_set1_epi32(value); }
WINNOW_STORED_INLINE Floats load_halves(const std::byte* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
WINNOW_STORED_INLINE Floats load_u8(const std::byte* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
WINNOW_STORED_INLINE Floats load_i8(const std::byte* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
WINNOW_STORED_INLINE Bytes load_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
WINNOW_STORED_INLINE Bytes low_nibbles(Bytes bytes) {
  return _mm512_and_si512(bytes, _mm512_set1_epi8(0x0f));
}
WINNOW_STORED_INLINE Bytes high_nibbles(Bytes bytes) {
  return _mm512_and_si512(_mm512_srli_epi16(bytes, 4), _mm512_set1_epi8(0x0f));
}
// Bits 2 kPart and 2 kPart + 1 of every byte, as bits 4 and 5.
template <int kPart>
WINNOW_STORED_INLINE Bytes upper_bits(Bytes bytes) {
  const Bytes moved =
      kPart < 2 ? _mm512_slli_epi16(bytes, 4 - 2 * (kPart % 2)) : _mm512_srli_epi16(bytes, 2 * (kPart % 2));
  return _mm512_and_si512(moved, _mm512_set1_epi8(0x30));
}
WINNOW_STORED_INLINE Bytes combine(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
// sums[lane] += sum over j of bytes[4 lane + j] * quad[j]
WINNOW_STORED_INLINE Ints dot4(Ints sums, Bytes bytes, const std::int8_t* quad) {
  std::int32_t four;
  std::memcpy(&four, quad, sizeof four);
  return _mm512_dpbusd_epi32(sums, bytes, _mm512_set1_epi32(four));
}
WINNOW_STORED_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
WINNOW_STORED_INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
WINNOW_STORED_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
WINNOW_STORED_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
WINNOW_STORED_INLINE Floats negative_multiply_add(Floats a, Floats b, Floats c) {
  return _mm512_fnmadd_ps(a, b, c);
}
WINNOW_STORED_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
WINNOW_STORED_INLINE void store(Floats a, float* p) { _mm512_storeu_ps(p, a); }
// To nearest even; a NaN is made quiet, as its payload may lie in the dropped bits.
WINNOW_STORED_INLINE void store(Floats a, BF16* p) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i result = _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(result));
}
WINNOW_STORED_INLINE Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
WINNOW_STORED_INLINE Floats load_floats(const BF16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
WINNOW_STORED_INLINE float largest_magnitude(Floats a, Floats b) {
  return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
}
WINNOW_STORED_INLINE Ints round(Floats a) { return _mm512_cvtps_epi32(a); }
WINNOW_STORED_INLINE void store_bytes(Ints a, std::int8_t* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}
WINNOW_STORED_INLINE std::int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a); }

#include "backends/cpu/stored_kernels-inl.h"

constexpr StoredKernels kKernels{"AVX-512 VNNI", quantize_f32, quantize_bf16,
                                 multiply_group, write_f32,    write_bf16};

}  // namespace

const StoredKernels* avx512_vnni_stored_kernels() { return has_avx512_vnni() ? &kKernels : nullptr; }

}  // namespace winnow::cpu

#else

namespace winnow::cpu {
const StoredKernels* avx512_vnni_stored_kernels() { return nullptr; }
}  // namespace winnow::cpu

#endif
