// SiLU (gated) and GELU.
#include "backends/cpu/kernels.h"
#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/activation.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/activation-inl.h"
#include "backends/cpu/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;

template <class T, class Function>
HWY_INLINE void plain_row(Function function, const T* x, T* y, std::int64_t dim) {
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    store(function(d, load(d, x + i, lanes)).value, d, y + i, lanes);
  });
}

template <class T, class Function>
HWY_INLINE void gated_row(Function function, const T* x, T* y, std::int64_t dim) {
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec gate = load(d, x + i, lanes), up = load(d, x + dim + i, lanes);
    store(hn::Mul(function(d, gate).value, up), d, y + i, lanes);
  });
}

template <class T>
void activate(const ActivationParams& p, std::int64_t begin, std::int64_t end) {
  const auto silu_of = [](Tag d, Vec x) HWY_ATTR { return silu(d, x); };
  const auto tanh_of = [](Tag d, Vec x) HWY_ATTR { return gelu_tanh(d, x); };
  const auto erf_of = [](Tag d, Vec x) HWY_ATTR { return gelu_erf(d, x); };
  for (std::int64_t r = begin; r < end; ++r) {
    const T* x = p.x.row<T>(r);
    T* y = p.y.row<T>(r);
    switch (p.kind) {
      case ActivationKind::kSiluGated: gated_row(silu_of, x, y, p.y.cols); break;
      case ActivationKind::kGeluTanh: plain_row(tanh_of, x, y, p.y.cols); break;
      case ActivationKind::kGeluErf: plain_row(erf_of, x, y, p.y.cols); break;
      case ActivationKind::kGeluTanhGated: gated_row(tanh_of, x, y, p.y.cols); break;
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
