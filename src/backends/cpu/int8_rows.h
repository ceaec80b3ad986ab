// Rounding rows to int8, and what makes of the exact sums of a product its result (int8_gemm.h):
//
//   x'(i, .) = H x(i, .)       a Hadamard transform of n = int8_rotation(columns) values: column k belongs to
//   the
//                              transform of all columns that are equal to k modulo columns / n
//   x'(i, k) = s_i q(i, k)     s_i = max_k |x'(i, k)| / 127, q = x' (127 / max) to the nearest, ties to even
//   w'(j, k) = t_j p(j, k)     likewise, once, when the weights are packed
//   y(i, j) = s_i t_j / n sum_k q(i, k) p(j, k) + bias_j        as (H x) . (H w) = n x . w
//
// The transform spreads the few large columns that activations have over n columns (QuaRot, arXiv
// 2404.00456): without it they set the scale and the others lose their bits. In float32, the steps of a
// radix-2 transform with neighbours first, so that every implementation rounds alike.
//
// Single-threaded (Highway). Called by int8_gemm.cc and tests.
#pragma once

#include <cstdint>

#include "backends/backend.h"

namespace winnow::cpu {

// A row without a value this large counts as zeros, so that the scale's inverse is finite.
constexpr float kLeastInt8Row = 1e-30f;

// The size of the transform: the largest power of two up to 64 that divides `columns`.
constexpr std::int64_t int8_rotation(std::int64_t columns) {
  std::int64_t size = 1;
  while (size < 64 && columns % (2 * size) == 0) size *= 2;
  return size;
}

// Row i of x, F32 or BF16, goes to q + i * x.cols, its scale to scales[i]. A row of zeros has scale 0; one
// that is not finite becomes zeros with scale NaN, so that its whole row of y is NaN.
// `work` holds x.cols floats.
void quantize_rows(const MatrixView& x, std::int8_t* q, float* scales, float* work);

struct ScaleSumsParams {
  const std::int32_t* sums = nullptr;     // [y.rows, y.cols]
  const float* row_scales = nullptr;      // [y.rows]
  const float* feature_scales = nullptr;  // [y.cols] t / n
  const float* bias = nullptr;            // [y.cols] or nullptr
  MatrixView y;                           // F32 or BF16, out
  bool accumulate = false;                // y += (F32)
};
void scale_sums(const ScaleSumsParams& params);

}  // namespace winnow::cpu
