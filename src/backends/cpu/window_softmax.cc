#include "backends/cpu/window_softmax.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/window_softmax.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

bool has_softmax_simd(const float* s, std::int64_t count) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto low = hn::Set(d, -INFINITY), high = hn::Set(d, INFINITY);
  auto below = hn::FirstN(d, static_cast<std::size_t>(lanes)), finite = hn::FirstN(d, 0);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::LoadU(d, s + i);
    below = hn::And(below, hn::Lt(v, high));
    finite = hn::Or(finite, hn::Gt(v, low));
  }
  bool all = hn::AllTrue(d, below), any = !hn::AllFalse(d, finite);
  for (; i < count; ++i) {
    all = all && s[i] < INFINITY;
    any = any || s[i] > -INFINITY;
  }
  return all && any;
}

// s becomes exp(s * scale - max); returns their sum.
float exponentials(float* s, std::int64_t count, float scale) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  // Past the end: -inf, whose exponential is 0.
  for (std::int64_t i = count; i % lanes != 0; ++i) s[i] = -INFINITY;
  auto vmax = hn::Set(d, -INFINITY);
  for (std::int64_t i = 0; i < count; i += lanes) vmax = hn::Max(vmax, hn::LoadU(d, s + i));
  const auto vscale = hn::Set(d, scale), shift = hn::Mul(hn::MaxOfLanes(d, vmax), vscale);
  auto sum = hn::Zero(d);
  for (std::int64_t i = 0; i < count; i += lanes) {
    const auto p = hn::Exp(d, hn::MulSub(hn::LoadU(d, s + i), vscale, shift));
    sum = hn::Add(sum, p);
    hn::StoreU(p, d, s + i);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

void add_softmax_simd(float* s, std::int64_t count, float scale, float weight, float* scores) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float factor = weight / exponentials(s, count, scale);
  const auto vfactor = hn::Set(d, factor);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, s + i), vfactor, hn::LoadU(d, scores + i)), d, scores + i);
  }
  for (; i < count; ++i) scores[i] += s[i] * factor;
}

void max_softmax_simd(float* s, std::int64_t count, float scale, float* scores) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float factor = 1.0f / exponentials(s, count, scale);
  const auto vfactor = hn::Set(d, factor);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::Max(hn::Mul(hn::LoadU(d, s + i), vfactor), hn::LoadU(d, scores + i)), d, scores + i);
  }
  for (; i < count; ++i) scores[i] = HWY_MAX(scores[i], s[i] * factor);
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {
HWY_EXPORT(has_softmax_simd);
HWY_EXPORT(add_softmax_simd);
HWY_EXPORT(max_softmax_simd);
bool has_softmax(const float* s, std::int64_t count) {
  return HWY_DYNAMIC_DISPATCH(has_softmax_simd)(s, count);
}
void add_softmax(float* s, std::int64_t count, float scale, float weight, float* scores) {
  HWY_DYNAMIC_DISPATCH(add_softmax_simd)(s, count, scale, weight, scores);
}
void max_softmax(float* s, std::int64_t count, float scale, float* scores) {
  HWY_DYNAMIC_DISPATCH(max_softmax_simd)(s, count, scale, scores);
}
}  // namespace winnow::cpu
#endif
