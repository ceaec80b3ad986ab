// exp and the logistic function on float32 vectors.

// NOLINTNEXTLINE: the toggle lets foreach_target.h include this file again.
#if defined(WINNOW_BACKENDS_CPU_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WINNOW_BACKENDS_CPU_EXP_INL_H_
#undef WINNOW_BACKENDS_CPU_EXP_INL_H_
#else
#define WINNOW_BACKENDS_CPU_EXP_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// exp(x) within 2 ulp for x in [-87, 88]; other x give nonsense.
//
// exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln 2 / 2, and the polynomial of Cephes' expf for
// exp(r). Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, so n needs no conversion.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_in_range(D d, V x) {
  const hn::RebindToUnsigned<D> du;
  const V shifter = hn::Set(d, 12582912.0f);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), shifter);
  const V n = hn::Sub(shifted, shifter);
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::MulAdd(hn::Set(d, 1.9875691500e-4f), r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::MulAdd(p, hn::Mul(r, r), hn::Add(r, hn::Set(d, 1.0f)));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(du, shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(du, p), exponent));
}

// The same for any x: below -87 it stays at exp(-87), 1.6e-38, above 88 at exp(88), 1.7e38.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp(D d, V x) {
  return exp_in_range(d, hn::Min(hn::Max(x, hn::Set(d, -87.0f)), hn::Set(d, 88.0f)));
}

// 1 / x within 2 ulp for x in [1, 2^125].
template <class D, class V = hn::Vec<D>>
HWY_INLINE V reciprocal(D d, V x) {
#if HWY_ARCH_X86
  // The estimate has 12 bits or more; one Newton step doubles them, at less than half the time of a division.
  const V estimate = hn::ApproximateReciprocal(x);
  return hn::Mul(estimate, hn::NegMulAdd(x, estimate, hn::Set(d, 2.0f)));
#else
  return hn::Div(hn::Set(d, 1.0f), x);
#endif
}

// The logistic function of -x: 1 / (1 + exp(x)). Above x = 80 it stays at exp(-80), 1.8e-35, so that the
// reciprocal's estimate is a normal number.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid_of_minus(D d, V x) {
  const V e = exp_in_range(d, hn::Min(hn::Max(x, hn::Set(d, -87.0f)), hn::Set(d, 80.0f)));
  return reciprocal(d, hn::Add(hn::Set(d, 1.0f), e));
}

}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the toggle
