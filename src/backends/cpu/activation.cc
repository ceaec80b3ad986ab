// SiLU (gated) and GELU.
#include "backends/cpu/kernels.h"
#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/activation.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/bf16-inl.h"
#include "backends/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;

HWY_INLINE Vec silu(Tag d, Vec x) { return hn::Mul(x, sigmoid_of_minus(d, hn::Neg(x))); }

// 0.5 (1 + tanh(u)) = sigmoid(2u), with 2u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
HWY_INLINE Vec gelu_tanh(Tag d, Vec x) {
  const Vec minus_factor = hn::MulAdd(hn::Mul(x, x), hn::Set(d, -0.0713548163f), hn::Set(d, -1.59576912f));
  return hn::Mul(x, sigmoid_of_minus(d, hn::Mul(x, minus_factor)));
}

// x Phi(x). The tail Phi(-|x|) = 0.5 erfc(|x| / sqrt 2) is Abramowitz and Stegun 7.1.26, absolute error
// 0.75e-7.
HWY_INLINE Vec gelu_erf(Tag d, Vec x) {
  const Vec z = hn::Mul(hn::Abs(x), hn::Set(d, 0.707106781f));
  // The estimate needs a finite argument; past |z| = 1e4 the exponential is at its floor anyway.
  const Vec t =
      reciprocal(d, hn::MulAdd(hn::Min(z, hn::Set(d, 1e4f)), hn::Set(d, 0.3275911f), hn::Set(d, 1.0f)));
  Vec p = hn::MulAdd(t, hn::Set(d, 1.061405429f), hn::Set(d, -1.453152027f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.421413741f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.284496736f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.254829592f));
  const Vec tail = hn::Mul(hn::Mul(hn::Mul(p, t), hn::Set(d, 0.5f)), exp(d, hn::Neg(hn::Mul(z, z))));
  const Vec phi = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
  return hn::Mul(x, phi);
}

template <class T>
void silu_gated_row(const T* x, T* y, std::int64_t dim) {
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec gate = load(d, x + i, lanes), up = load(d, x + dim + i, lanes);
    store(hn::Mul(silu(d, gate), up), d, y + i, lanes);
  });
}

template <class T>
void gelu_tanh_gated_row(const T* x, T* y, std::int64_t dim) {
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec gate = load(d, x + i, lanes), up = load(d, x + dim + i, lanes);
    store(hn::Mul(gelu_tanh(d, gate), up), d, y + i, lanes);
  });
}

template <class T>
void gelu_tanh_row(const T* x, T* y, std::int64_t dim) {
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    store(gelu_tanh(d, load(d, x + i, lanes)), d, y + i, lanes);
  });
}

template <class T>
void gelu_erf_row(const T* x, T* y, std::int64_t dim) {
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    store(gelu_erf(d, load(d, x + i, lanes)), d, y + i, lanes);
  });
}

template <class T>
void activate(const ActivationParams& p, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    const T* x = p.x.row<T>(r);
    T* y = p.y.row<T>(r);
    switch (p.kind) {
      case ActivationKind::kSiluGated: silu_gated_row(x, y, p.y.cols); break;
      case ActivationKind::kGeluTanh: gelu_tanh_row(x, y, p.y.cols); break;
      case ActivationKind::kGeluErf: gelu_erf_row(x, y, p.y.cols); break;
      case ActivationKind::kGeluTanhGated: gelu_tanh_gated_row(x, y, p.y.cols); break;
    }
  }
}

void activate_f32(const ActivationParams& p, std::int64_t begin, std::int64_t end) {
  activate<float>(p, begin, end);
}
void activate_bf16(const ActivationParams& p, std::int64_t begin, std::int64_t end) {
  activate<BF16>(p, begin, end);
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(activate_f32);
HWY_EXPORT(activate_bf16);

void activation_rows(const ActivationParams& params, std::int64_t begin, std::int64_t end) {
  const std::int64_t inputs = is_gated(params.kind) ? 2 : 1;
  check(params.x.rows == params.y.rows && params.x.cols == inputs * params.y.cols,
        "activation: x is [rows, dim], or [rows, 2 dim] when gated");
  check(params.x.dtype == params.y.dtype, "activation: x and y are of one type");
  if (params.x.dtype == DType::kBF16) {
    HWY_DYNAMIC_DISPATCH(activate_bf16)(params, begin, end);
  } else {
    HWY_DYNAMIC_DISPATCH(activate_f32)(params, begin, end);
  }
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
