// Float32 to bfloat16 (to nearest even) and back.
#include <cstring>

#include "backends/cpu/kernels.h"
#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/convert.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

template <class X, class Y>
void convert_elements(const X* x, Y* y, std::int64_t n) {
  const hn::ScalableTag<float> d;
  for_each_vector(
      d, n, [&](std::int64_t i, auto lanes) HWY_ATTR { store(load(d, x + i, lanes), d, y + i, lanes); });
}

void narrow(const float* x, BF16* y, std::int64_t n) { convert_elements(x, y, n); }
void widen(const BF16* x, float* y, std::int64_t n) { convert_elements(x, y, n); }

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(narrow);
HWY_EXPORT(widen);

void convert_rows(const MatrixView& x, const MatrixView& y, std::int64_t begin, std::int64_t end) {
  check(x.rows == y.rows && x.cols == y.cols, "convert: the two matrices have the same shape");
  const std::int64_t n = (end - begin) * x.cols;
  if (x.dtype == DType::kF32 && y.dtype == DType::kBF16) {
    HWY_DYNAMIC_DISPATCH(narrow)(x.row<float>(begin), y.row<BF16>(begin), n);
  } else if (x.dtype == DType::kBF16 && y.dtype == DType::kF32) {
    HWY_DYNAMIC_DISPATCH(widen)(x.row<BF16>(begin), y.row<float>(begin), n);
  } else {
    check(x.dtype == y.dtype, "convert: between F32 and BF16");
    std::memmove(y.row<std::byte>(begin), x.row<std::byte>(begin),
                 static_cast<std::size_t>(dtype_bytes(x.dtype, n)));
  }
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
