// What the kernels written for AVX-512 and its dot products share. Function target attributes, so that the
// rest of the program stays runnable on machines without them: call nothing of this before has_avx512_bf16()
// or has_avx512_vnni().
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

#define WINNOW_AVX512_PLAIN __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define WINNOW_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
#define WINNOW_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))

namespace winnow::cpu {

// 2^x of a softmax's exponents, which are at most a few units above 0. Relative error 7.5e-5 (minimax cubic
// on the fraction): a thirtieth of the rounding to bf16 that follows.
WINNOW_AVX512_PLAIN inline __m512 exp2_fast(__m512 x) {
  constexpr int kFractionByFloor = 0x01;
  const __m512 f = _mm512_reduce_ps(x, kFractionByFloor);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.07802466303110123f), f, _mm512_set1_ps(0.22606758773326874f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6958330273628235f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999253153800964f));
  return _mm512_scalef_ps(p, x);
}

// The first `count` of 16 lanes; none for counts below 0, all for 16 and more.
WINNOW_AVX512_PLAIN inline __mmask16 lanes_below(std::int64_t count) {
  if (count >= 16) return 0xffff;
  return static_cast<__mmask16>(count <= 0 ? 0u : (1u << count) - 1u);
}

}  // namespace winnow::cpu
#endif
