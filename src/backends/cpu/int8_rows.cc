#include "backends/cpu/int8_rows.h"

#include <cmath>
#include <cstring>

#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/int8_rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;
using IntTag = hn::RebindToSigned<Tag>;
using ByteTag = hn::Rebind<std::int8_t, Tag>;

// The largest magnitude of a row; NaN if it is not finite.
float largest(const float* x, std::int64_t n) {
  const Tag d;
  Vec most = hn::Zero(d), poison = hn::Zero(d);
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec v = load(d, x + i, lanes);
    most = hn::Max(most, hn::Abs(v));
    poison = hn::MulAdd(v, hn::Zero(d), poison);  // 0 x infinity and 0 x NaN stay
  });
  const float zero = hn::GetLane(hn::SumOfLanes(d, poison));
  return zero == 0 ? hn::GetLane(hn::MaxOfLanes(d, most)) : zero;
}

// One step of the transform: a, b = a + b, a - b on runs of n.
void butterfly(float* a, float* b, std::int64_t n) {
  const Tag d;
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec u = load(d, a + i, lanes), v = load(d, b + i, lanes);
    store(hn::Add(u, v), d, a + i, lanes);
    store(hn::Sub(u, v), d, b + i, lanes);
  });
}

// Two steps at once, on four runs that follow each other.
void butterfly2(float* x, std::int64_t n) {
  const Tag d;
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec a = load(d, x + i, lanes), b = load(d, x + n + i, lanes);
    const Vec c = load(d, x + 2 * n + i, lanes), e = load(d, x + 3 * n + i, lanes);
    const Vec ab = hn::Add(a, b), a_b = hn::Sub(a, b), ce = hn::Add(c, e), c_e = hn::Sub(c, e);
    store(hn::Add(ab, ce), d, x + i, lanes);
    store(hn::Add(a_b, c_e), d, x + n + i, lanes);
    store(hn::Sub(ab, ce), d, x + 2 * n + i, lanes);
    store(hn::Sub(a_b, c_e), d, x + 3 * n + i, lanes);
  });
}

void rotate(float* x, std::int64_t columns) {
  const std::int64_t size = int8_rotation(columns);
  std::int64_t run = columns / size;
  for (; 4 * run <= columns && columns % (4 * run) == 0; run *= 4) {
    for (std::int64_t begin = 0; begin < columns; begin += 4 * run) butterfly2(x + begin, run);
  }
  if (run < columns) butterfly(x, x + run, run);
}

template <class T>
void widen(const T* x, std::int64_t n, float* y) {
  const Tag d;
  for_each_vector(
      d, n, [&](std::int64_t i, auto lanes) HWY_ATTR { store(load(d, x + i, lanes), d, y + i, lanes); });
}

HWY_INLINE void store_bytes(hn::Vec<ByteTag> v, std::int8_t* q, AllLanes) { hn::StoreU(v, ByteTag(), q); }
HWY_INLINE void store_bytes(hn::Vec<ByteTag> v, std::int8_t* q, FirstLanes lanes) {
  store_first(v, ByteTag(), q, lanes.count);
}

float quantize_row(const float* x, std::int64_t n, std::int8_t* q) {
  const Tag d;
  const float most = largest(x, n);
  if (!(most >= kLeastInt8Row)) {
    std::memset(q, 0, static_cast<std::size_t>(n));
    return std::isnan(most) ? most : 0.0f;
  }
  const Vec inverse = hn::Set(d, 127.0f / most);
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const auto whole = hn::NearestInt(hn::Mul(load(d, x + i, lanes), inverse));
    store_bytes(hn::DemoteTo(ByteTag(), whole), q + i, lanes);
  });
  return most / 127.0f;
}

void quantize(const MatrixView& x, std::int8_t* q, float* scales, float* work) {
  for (std::int64_t row = 0; row < x.rows; ++row, q += x.cols) {
    if (x.dtype == DType::kBF16) {
      widen(x.row<BF16>(row), x.cols, work);
    } else {
      widen(x.row<float>(row), x.cols, work);
    }
    rotate(work, x.cols);
    scales[row] = quantize_row(work, x.cols, q);
  }
}

HWY_INLINE hn::Vec<IntTag> load_sums(const std::int32_t* sums, AllLanes) { return hn::LoadU(IntTag(), sums); }
HWY_INLINE hn::Vec<IntTag> load_sums(const std::int32_t* sums, FirstLanes lanes) {
  return load_first(IntTag(), sums, lanes.count);
}

template <bool kAccumulate, class T>
void scale_row(const ScaleSumsParams& p, std::int64_t row, T* y) {
  const Tag d;
  const std::int32_t* sums = p.sums + row * p.y.cols;
  const Vec row_scale = hn::Set(d, p.row_scales[row]);
  for_each_vector(d, p.y.cols, [&](std::int64_t j, auto lanes) HWY_ATTR {
    const Vec sum = hn::ConvertTo(d, load_sums(sums + j, lanes));
    Vec value = hn::Mul(sum, hn::Mul(row_scale, load(d, p.feature_scales + j, lanes)));
    if (p.bias != nullptr) value = hn::Add(value, load(d, p.bias + j, lanes));
    if (kAccumulate) value = hn::Add(load(d, y + j, lanes), value);
    store(value, d, y + j, lanes);
  });
}

void scale(const ScaleSumsParams& p) {
  for (std::int64_t row = 0; row < p.y.rows; ++row) {
    if (p.y.dtype == DType::kBF16) {
      scale_row<false>(p, row, p.y.row<BF16>(row));
    } else if (p.accumulate) {
      scale_row<true>(p, row, p.y.row<float>(row));
    } else {
      scale_row<false>(p, row, p.y.row<float>(row));
    }
  }
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(quantize);
HWY_EXPORT(scale);

void quantize_rows(const MatrixView& x, std::int8_t* q, float* scales, float* work) {
  HWY_DYNAMIC_DISPATCH(quantize)(x, q, scales, work);
}

void scale_sums(const ScaleSumsParams& params) {
  check(!params.accumulate || params.y.dtype == DType::kF32, "scale_sums: only float32 is accumulated into");
  HWY_DYNAMIC_DISPATCH(scale)(params);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
