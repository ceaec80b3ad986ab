// How far a backend may be from the reference, and why. A value passes if
// |actual - expected| <= absolute + relative * |expected|; `absolute` is for values of scale 1.
#pragma once

#include "core/dtype.h"

namespace winnow::testing {

struct Tolerance {
  double absolute;
  double relative;
};

// Storing to BF16 keeps 8 bits: half an ulp is 2^-9 relative. Where the reference's value lies near the
// middle of two BF16 numbers the float32 result may round to the other one, which is a whole ulp: at most
// 2^-7 relative.
constexpr double kBf16Ulp = 0x1p-7;

// `f32` for float32 outputs; BF16 outputs may be one more ulp off.
constexpr Tolerance stored_as(DType dtype, Tolerance f32) {
  return dtype == DType::kBF16 ? Tolerance{f32.absolute, f32.relative + kBf16Ulp} : f32;
}

// A float32 sum of n <= 4096 terms in 16 or more partial sums: some 2^-24 sqrt(n / 16) relative to the sum of
// squares, then a square root, a division and two products. The mean of LayerNorm adds an absolute error at
// the scale of x.
constexpr Tolerance kNorm = {2e-6, 2e-6};
constexpr Tolerance kRowNorm = {0.0, 2e-6};

// exp within 2 ulp, its argument rounded (|x| 2^-24 relative to the exponential, |x| < 10 where the result is
// not negligible), a reciprocal of 2 ulp and two products. Arguments are at most 20 in size, so x * 1e-7 is
// the absolute part.
constexpr Tolerance kActivation = {1e-6, 2e-6};
// erf of Abramowitz and Stegun 7.1.26: absolute error 0.75e-7 |x| on top.
constexpr Tolerance kGeluErf = {3e-6, 2e-6};

// Two float32 products and a sum, of operands of scale 4.
constexpr Tolerance kRope = {2e-6, 1e-6};
// The same with operands that went through a norm (kNorm) with weights of scale 4: the relative error of
// operands of scale 16.
constexpr Tolerance kNormedRope = {4e-5, 2e-6};

// A dot product of n terms with float32 accumulation, scaled so that the result has unit variance: 2^-24
// sqrt(n) in expectation, and the worst of some 10^5 outputs is 5 times that. BF16 inputs are the same for
// both sides, and their products are exact in float32.
constexpr Tolerance kLinear = {1e-5, 1e-5};

// Scores are dot products of float32 (as kLinear) times exp (2 ulp, or 1e-5 on a fast polynomial).
constexpr Tolerance kAttentionF32 = {2e-5, 2e-5};
// Scores of some 400 (queries a hundred times too large) have an ulp of 3e-5, and exp turns it into a
// relative error.
constexpr Tolerance kSharpAttentionF32 = {2e-4, 1e-4};
// Probabilities are rounded to BF16 (2^-9 each, partly averaged out by the sum), exp is a polynomial with a
// relative error of 2e-4, and the output is rounded once more: 1e-2 of the scale of the values, which is 1.
constexpr Tolerance kAttentionBf16 = {1e-2, kBf16Ulp};

// Window scores stay float32 throughout; for BF16 the inputs are equal on both sides. A score's argument of
// exp is off by some 1e-6, which is its relative error.
constexpr Tolerance kWindowScores = {1e-7, 5e-5};

}  // namespace winnow::testing
