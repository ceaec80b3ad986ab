#include "backends/cpu/bf16_panels.h"

#include "backends/cpu/cpu_features.h"
#include "core/check.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#endif

namespace winnow::cpu {

bool has_panel_kernel() { return has_avx512_bf16(); }

#if defined(__x86_64__)
namespace {

#define WINNOW_PANEL_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

WINNOW_PANEL_TARGET inline __m512bh pair(const BF16* x) {
  std::int32_t both;
  std::memcpy(&both, x, sizeof both);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
}

template <int kRows>
WINNOW_PANEL_TARGET void multiply_rows(const BF16* panel, std::int64_t blocks, const BF16* x,
                                       float (*y)[kPanelFeatures]) {
  constexpr int kVectors = kPanelFeatures / 16;
  const std::int64_t stride = blocks * kPanelColumns;
  __m512 sums[kRows][kVectors];
  for (auto& row : sums) {
    for (__m512& sum : row) sum = _mm512_setzero_ps();
  }
  for (std::int64_t p = 0; p < stride / 2; ++p, panel += 2 * kPanelFeatures) {
    __m512bh w[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) w[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + 32 * j));
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m512bh xs = pair(x + r * stride + 2 * p);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[r][j] = _mm512_dpbf16_ps(sums[r][j], w[j], xs);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) _mm512_storeu_ps(y[r] + 16 * j, sums[r][j]);
  }
}

}  // namespace

void multiply_panel(const BF16* panel, std::int64_t blocks, const BF16* x, std::int64_t rows,
                    float (*y)[kPanelFeatures]) {
  const std::int64_t stride = blocks * kPanelColumns;
  for (; rows >= 4; rows -= 4, x += 4 * stride, y += 4) multiply_rows<4>(panel, blocks, x, y);
  if (rows == 3) multiply_rows<3>(panel, blocks, x, y);
  if (rows == 2) multiply_rows<2>(panel, blocks, x, y);
  if (rows == 1) multiply_rows<1>(panel, blocks, x, y);
}

#else

void multiply_panel(const BF16*, std::int64_t, const BF16*, std::int64_t, float (*)[kPanelFeatures]) {
  check(false, "multiply_panel: has_panel_kernel()");
}

#endif

}  // namespace winnow::cpu
