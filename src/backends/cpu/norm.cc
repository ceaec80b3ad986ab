// RMSNorm, LayerNorm and Euclidean norms of rows.
#include <cmath>

#include "backends/cpu/kernels.h"
#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/bf16-inl.h"
#include "backends/cpu/reduce-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;

template <class T>
float sum(const T* x, std::int64_t n) {
  return reduce(x, n, [](Vec v, Vec total) HWY_ATTR { return hn::Add(total, v); });
}

// About a centre near the mean: the sum of squares of x itself would cancel.
float sum_of_squared_differences(const float* x, std::int64_t n, float centre) {
  const Vec c = hn::Set(Tag(), centre);
  return reduce(x, n, [c](Vec v, Vec total) HWY_ATTR {
    const Vec difference = hn::Sub(v, c);
    return hn::MulAdd(difference, difference, total);
  });
}

// y = (x - centre) * scale * weight + bias
template <class Y>
void write_normed(const NormParams& p, const float* x, float centre, float scale, Y* y) {
  const Tag d;
  const Vec c = hn::Set(d, centre), s = hn::Set(d, scale);
  if (p.accumulate) {
    for_each_vector(d, p.x.cols, [&](std::int64_t i, auto lanes) HWY_ATTR {
      const Vec normed = hn::Mul(hn::Sub(load(d, x + i, lanes), c), s);
      const Vec bias = p.bias != nullptr ? load(d, p.bias + i, lanes) : hn::Zero(d);
      const Vec weighted = hn::MulAdd(normed, load(d, p.weight + i, lanes), bias);
      store(hn::Add(load(d, y + i, lanes), weighted), d, y + i, lanes);
    });
    return;
  }
  if (p.bias != nullptr) {
    for_each_vector(d, p.x.cols, [&](std::int64_t i, auto lanes) HWY_ATTR {
      const Vec normed = hn::Mul(hn::Sub(load(d, x + i, lanes), c), s);
      const Vec bias = load(d, p.bias + i, lanes);
      store(hn::MulAdd(normed, load(d, p.weight + i, lanes), bias), d, y + i, lanes);
    });
    return;
  }
  for_each_vector(d, p.x.cols, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec normed = hn::Mul(hn::Sub(load(d, x + i, lanes), c), s);
    store(hn::Mul(normed, load(d, p.weight + i, lanes)), d, y + i, lanes);
  });
}

template <class Y>
void norm_row(const NormParams& p, const float* x, Y* y) {
  const std::int64_t dim = p.x.cols;
  const float count = static_cast<float>(dim);
  const float centre = p.kind == NormKind::kLayer ? sum(x, dim) / count : 0.0f;
  const float squares =
      p.kind == NormKind::kLayer ? sum_of_squared_differences(x, dim, centre) : sum_of_squares(x, dim);
  write_normed(p, x, centre, 1.0f / std::sqrt(squares / count + p.epsilon), y);
}

void norm_range(const NormParams& p, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    if (p.y.dtype == DType::kBF16) {
      norm_row(p, p.x.row<float>(r), p.y.row<BF16>(r));
    } else {
      norm_row(p, p.x.row<float>(r), p.y.row<float>(r));
    }
  }
}

void euclidean_norms(const MatrixView& x, float* norms, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    const float squares = x.dtype == DType::kBF16 ? sum_of_squares(x.row<BF16>(r), x.cols)
                                                  : sum_of_squares(x.row<float>(r), x.cols);
    norms[r] = std::sqrt(squares);
  }
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(norm_range);
HWY_EXPORT(euclidean_norms);

void norm_rows(const NormParams& params, std::int64_t begin, std::int64_t end) {
  check(params.x.dtype == DType::kF32, "norm: x is float32");
  check(params.x.rows == params.y.rows && params.x.cols == params.y.cols, "norm: y is shaped as x");
  check(!params.accumulate || params.y.dtype == DType::kF32, "norm: only float32 accumulates");
  HWY_DYNAMIC_DISPATCH(norm_range)(params, begin, end);
}

void row_norms_range(const MatrixView& x, float* norms, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(euclidean_norms)(x, norms, begin, end);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
