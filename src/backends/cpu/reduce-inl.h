// Sums over rows of float32 or bfloat16 memory. Included by the kernels of this folder, once for every SIMD
// target.

// NOLINTNEXTLINE: the toggle lets foreach_target.h include this file again.
#if defined(WINNOW_BACKENDS_CPU_REDUCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WINNOW_BACKENDS_CPU_REDUCE_INL_H_
#undef WINNOW_BACKENDS_CPU_REDUCE_INL_H_
#else
#define WINNOW_BACKENDS_CPU_REDUCE_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "backends/cpu/bf16-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Folds `step(v, sum)` over the vectors of x. Four sums, because one would wait for the latency of every
// addition.
template <class T, class Step>
HWY_INLINE float reduce(const T* x, std::int64_t n, Step step) {
  using Vec = hn::Vec<hn::ScalableTag<float>>;
  const hn::ScalableTag<float> d;
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
HWY_INLINE float sum_of_squares(const T* x, std::int64_t n) {
  using Vec = hn::Vec<hn::ScalableTag<float>>;
  return reduce(x, n, [](Vec v, Vec total) HWY_ATTR { return hn::MulAdd(v, v, total); });
}

}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the toggle
