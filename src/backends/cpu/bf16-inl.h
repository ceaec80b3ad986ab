// Vectors of float32 loaded from and stored to float32 or bfloat16 memory, whole or in part. Included by the
// kernels of this folder, once for every SIMD target.
//
// Highway 1.0.3 demotes to bfloat16 by truncation, so the rounding to nearest even is written here.

// NOLINTNEXTLINE: the toggle lets foreach_target.h include this file again.
#if defined(WINNOW_BACKENDS_CPU_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WINNOW_BACKENDS_CPU_BF16_INL_H_
#undef WINNOW_BACKENDS_CPU_BF16_INL_H_
#else
#define WINNOW_BACKENDS_CPU_BF16_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How many lanes of a vector a load or store touches. Distinct types, so that loops over whole vectors carry
// no test.
struct AllLanes {};
struct FirstLanes {
  std::size_t count;
};

template <class D>
using Bf16Tag = hn::Rebind<std::uint16_t, D>;

// float32 -> the 16 bits of bfloat16, to nearest even. A NaN is made quiet, as its payload may lie in the
// dropped bits.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<Bf16Tag<D>> round_to_bf16(D, V v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd);
  const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000u));
  const auto result = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
  return hn::TruncateTo(Bf16Tag<D>(), hn::ShiftRight<16>(result));
}

template <class D>
HWY_INLINE hn::Vec<D> from_bf16(D d, hn::Vec<Bf16Tag<D>> v) {
  const hn::RebindToUnsigned<D> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, v)));
}

// The first `count` elements, then zeros; no byte past them is read.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load_first(D d, const T* p, std::size_t count) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN T lanes[hn::MaxLanes(D())] = {};
  std::memcpy(lanes, p, count * sizeof(T));
  return hn::Load(d, lanes);
#else
  return hn::MaskedLoad(hn::FirstN(d, count), d, p);
#endif
}

template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_first(hn::Vec<D> v, D d, T* p, std::size_t count) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN T lanes[hn::MaxLanes(D())];
  hn::Store(v, d, lanes);
  std::memcpy(p, lanes, count * sizeof(T));
#else
  hn::BlendedStore(v, hn::FirstN(d, count), d, p);
#endif
}

// load(d, p, lanes) and store(v, d, p, lanes): the overloads the kernels are written with.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* p, AllLanes) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* p, FirstLanes lanes) {
  return load_first(d, p, lanes.count);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const BF16* p, AllLanes) {
  return from_bf16(d, hn::LoadU(Bf16Tag<D>(), &p->bits));
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const BF16* p, FirstLanes lanes) {
  return from_bf16(d, load_first(Bf16Tag<D>(), &p->bits, lanes.count));
}

template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, float* p, AllLanes) {
  hn::StoreU(v, d, p);
}
template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, float* p, FirstLanes lanes) {
  store_first(v, d, p, lanes.count);
}
template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, BF16* p, AllLanes) {
  hn::StoreU(round_to_bf16(d, v), Bf16Tag<D>(), &p->bits);
}
template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, BF16* p, FirstLanes lanes) {
  store_first(round_to_bf16(d, v), Bf16Tag<D>(), &p->bits, lanes.count);
}

// body(i, lanes) for every vector of [0, n): AllLanes, and FirstLanes for what is left over.
template <class D, class Body>
HWY_INLINE void for_each_vector(D d, std::int64_t n, Body body) {
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + step <= n; i += step) body(i, AllLanes());
  if (i < n) body(i, FirstLanes{static_cast<std::size_t>(n - i)});
}

}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the toggle
