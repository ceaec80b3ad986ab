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

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;

// Folds `step(v, sum)` over the vectors of x. Four sums, because one would wait for the latency of every
// addition.
template <class T, class Step>
HWY_INLINE float reduce(const T* x, std::int64_t n, Step step) {
  const Tag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Vec sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    sum0 = step(load(d, x + i, AllLanes()), sum0);
    sum1 = step(load(d, x + i + lanes, AllLanes()), sum1);
    sum2 = step(load(d, x + i + 2 * lanes, AllLanes()), sum2);
    sum3 = step(load(d, x + i + 3 * lanes, AllLanes()), sum3);
  }
  for (; i + lanes <= n; i += lanes) sum0 = step(load(d, x + i, AllLanes()), sum0);
  if (i < n) {
    const auto left = static_cast<std::size_t>(n - i);
    sum1 = hn::IfThenElse(hn::FirstN(d, left), step(load(d, x + i, FirstLanes{left}), sum1), sum1);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

template <class T>
float sum(const T* x, std::int64_t n) {
  return reduce(x, n, [](Vec v, Vec total) HWY_ATTR { return hn::Add(total, v); });
}

template <class T>
float sum_of_squares(const T* x, std::int64_t n) {
  return reduce(x, n, [](Vec v, Vec total) HWY_ATTR { return hn::MulAdd(v, v, total); });
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
  HWY_DYNAMIC_DISPATCH(norm_range)(params, begin, end);
}

void row_norms_range(const MatrixView& x, float* norms, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(euclidean_norms)(x, norms, begin, end);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
