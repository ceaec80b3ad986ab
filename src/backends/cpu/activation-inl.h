// SiLU and GELU with their slopes, on float32 vectors. Whoever needs one of the two leaves the other to the
// compiler, which computes nothing for it.

// NOLINTNEXTLINE: the toggle lets foreach_target.h include this file again.
#if defined(WINNOW_BACKENDS_CPU_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WINNOW_BACKENDS_CPU_ACTIVATION_INL_H_
#undef WINNOW_BACKENDS_CPU_ACTIVATION_INL_H_
#else
#define WINNOW_BACKENDS_CPU_ACTIVATION_INL_H_
#endif

#include "backends/cpu/exp-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class V>
struct ValueAndSlope {
  V value, slope;
};

// x s with s = sigmoid(x): slope s (1 + x (1 - s)).
template <class D, class V = hn::Vec<D>>
HWY_INLINE ValueAndSlope<V> silu(D d, V x) {
  const V one = hn::Set(d, 1.0f), s = sigmoid_of_minus(d, hn::Neg(x));
  return {hn::Mul(x, s), hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one))};
}

// 0.5 x (1 + tanh(u / 2)) = x s with s = sigmoid(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3): slope s + x s (1
// - s) u'.
template <class D, class V = hn::Vec<D>>
HWY_INLINE ValueAndSlope<V> gelu_tanh(D d, V x) {
  const V one = hn::Set(d, 1.0f), a = hn::Set(d, 1.59576912f), b = hn::Set(d, 0.0713548163f),
          square = hn::Mul(x, x);
  const V s = sigmoid_of_minus(d, hn::Neg(hn::Mul(x, hn::MulAdd(square, b, a))));
  const V slope_of_u = hn::MulAdd(square, hn::Mul(hn::Set(d, 3.0f), b), a);
  return {hn::Mul(x, s), hn::MulAdd(hn::Mul(hn::Mul(x, s), hn::Sub(one, s)), slope_of_u, s)};
}

// x Phi(x): slope Phi(x) + x phi(x). The tail Phi(-|x|) = 0.5 erfc(|x| / sqrt 2) is Abramowitz and
// Stegun 7.1.26, absolute error 0.75e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE ValueAndSlope<V> gelu_erf(D d, V x) {
  const V z = hn::Mul(hn::Abs(x), hn::Set(d, 0.707106781f));
  // The estimate needs a finite argument; past |z| = 1e4 the exponential is at its floor anyway.
  const V t =
      reciprocal(d, hn::MulAdd(hn::Min(z, hn::Set(d, 1e4f)), hn::Set(d, 0.3275911f), hn::Set(d, 1.0f)));
  V p = hn::MulAdd(t, hn::Set(d, 1.061405429f), hn::Set(d, -1.453152027f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.421413741f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.284496736f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.254829592f));
  const V bell = exp(d, hn::Neg(hn::Mul(z, z)));  // exp(-x^2 / 2)
  const V tail = hn::Mul(hn::Mul(hn::Mul(p, t), hn::Set(d, 0.5f)), bell);
  const V phi = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
  return {hn::Mul(x, phi), hn::MulAdd(x, hn::Mul(bell, hn::Set(d, 0.398942280f)), phi)};
}

}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the toggle
