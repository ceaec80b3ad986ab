// Quantised products on AVX2. vpmaddubsw would saturate with bytes above 127, so even and odd bytes are
// multiplied as 16-bit integers.
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/stored_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

namespace winnow::cpu {
namespace {

#define WINNOW_STORED_TARGET __attribute__((target("avx2,fma,f16c")))
#define WINNOW_STORED_INLINE WINNOW_STORED_TARGET inline __attribute__((always_inline))

struct Floats {
  __m256 low, high;
};
struct Ints {
  __m256i low, high;
};
using Bytes = Ints;

WINNOW_STORED_INLINE __m256i load_256(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
WINNOW_STORED_INLINE __m128i load_128(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
WINNOW_STORED_INLINE __m128i load_64(const std::byte* p) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
}

WINNOW_STORED_INLINE Floats splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
WINNOW_STORED_INLINE Ints splat(std::int32_t value) {
  return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
}
WINNOW_STORED_INLINE Floats load_halves(const std::byte* p) {
  return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 16))};
}
WINNOW_STORED_INLINE Floats to_floats(Ints a) {
  return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
}
WINNOW_STORED_INLINE Floats load_u8(const std::byte* p) {
  return to_floats({_mm256_cvtepu8_epi32(load_64(p)), _mm256_cvtepu8_epi32(load_64(p + 8))});
}
WINNOW_STORED_INLINE Floats load_i8(const std::byte* p) {
  return to_floats({_mm256_cvtepi8_epi32(load_64(p)), _mm256_cvtepi8_epi32(load_64(p + 8))});
}
WINNOW_STORED_INLINE Bytes load_bytes(const std::byte* p) { return {load_256(p), load_256(p + 32)}; }
WINNOW_STORED_INLINE Bytes both_and(Bytes bytes, char mask) {
  const __m256i masks = _mm256_set1_epi8(mask);
  return {_mm256_and_si256(bytes.low, masks), _mm256_and_si256(bytes.high, masks)};
}
template <int kBits>
WINNOW_STORED_INLINE Bytes shift_right(Bytes bytes) {
  return {_mm256_srli_epi16(bytes.low, kBits), _mm256_srli_epi16(bytes.high, kBits)};
}
template <int kBits>
WINNOW_STORED_INLINE Bytes shift_left(Bytes bytes) {
  return {_mm256_slli_epi16(bytes.low, kBits), _mm256_slli_epi16(bytes.high, kBits)};
}
WINNOW_STORED_INLINE Bytes low_nibbles(Bytes bytes) { return both_and(bytes, 0x0f); }
WINNOW_STORED_INLINE Bytes high_nibbles(Bytes bytes) { return both_and(shift_right<4>(bytes), 0x0f); }
// Bits 2 kPart and 2 kPart + 1 of every byte, as bits 4 and 5.
template <int kPart>
WINNOW_STORED_INLINE Bytes upper_bits(Bytes bytes) {
  if constexpr (kPart < 2) return both_and(shift_left<4 - 2 * kPart>(bytes), 0x30);
  return both_and(shift_right<2 * (kPart % 2)>(bytes), 0x30);
}
WINNOW_STORED_INLINE Bytes combine(Bytes a, Bytes b) {
  return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}
WINNOW_STORED_INLINE Ints add(Ints a, Ints b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
// sums[lane] += sum over j of bytes[4 lane + j] * quad[j]
WINNOW_STORED_INLINE Ints dot4(Ints sums, Bytes bytes, const std::int8_t* quad) {
  std::int32_t four;
  std::memcpy(&four, quad, sizeof four);
  const __m256i x = _mm256_set1_epi32(four);
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd = _mm256_srai_epi16(x, 8);
  const Bytes even_bytes = {_mm256_and_si256(bytes.low, _mm256_set1_epi16(0xff)),
                            _mm256_and_si256(bytes.high, _mm256_set1_epi16(0xff))};
  const Bytes odd_bytes = shift_right<8>(bytes);
  sums = add(sums, {_mm256_madd_epi16(even_bytes.low, even), _mm256_madd_epi16(even_bytes.high, even)});
  return add(sums, {_mm256_madd_epi16(odd_bytes.low, odd), _mm256_madd_epi16(odd_bytes.high, odd)});
}
WINNOW_STORED_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
WINNOW_STORED_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
WINNOW_STORED_INLINE Floats negative_multiply_add(Floats a, Floats b, Floats c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
WINNOW_STORED_INLINE Floats add(Floats a, Floats b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
WINNOW_STORED_INLINE Floats load_floats(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
WINNOW_STORED_INLINE __m256 load_8(const BF16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
WINNOW_STORED_INLINE Floats load_floats(const BF16* p) { return {load_8(p), load_8(p + 8)}; }
WINNOW_STORED_INLINE float largest_magnitude(Floats a, Floats b) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const __m256 first = _mm256_max_ps(_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high));
  const __m256 second = _mm256_max_ps(_mm256_andnot_ps(sign, b.low), _mm256_andnot_ps(sign, b.high));
  const __m256 eight = _mm256_max_ps(first, second);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
WINNOW_STORED_INLINE Ints round(Floats a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
WINNOW_STORED_INLINE void store_bytes(Ints a, std::int8_t* p) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
WINNOW_STORED_INLINE std::int32_t sum(Ints a) {
  const __m256i eight = _mm256_add_epi32(a.low, a.high);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
WINNOW_STORED_INLINE void store(Floats a, float* p) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
WINNOW_STORED_INLINE void store(Floats a, BF16* p) {
  float values[16];
  store(a, values);
  for (int i = 0; i < 16; ++i) p[i] = to_bf16(values[i]);
}

#include "backends/cpu/stored_kernels-inl.h"

constexpr StoredKernels kKernels{"AVX2", quantize_f32, quantize_bf16, multiply_group, write_f32, write_bf16};

}  // namespace

const StoredKernels* avx2_stored_kernels() { return has_avx2() ? &kKernels : nullptr; }

}  // namespace winnow::cpu

#else

namespace winnow::cpu {
const StoredKernels* avx2_stored_kernels() { return nullptr; }
}  // namespace winnow::cpu

#endif
