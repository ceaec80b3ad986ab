#include "backends/cpu/q8_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "backends/cpu/cache_heads.h"
#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/q8_cache.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

float largest(const float* x, std::int64_t count) {
  const hn::ScalableTag<float> d;
  auto most = hn::Zero(d);
  for_each_vector(d, count, [&](std::int64_t i, auto lanes) HWY_ATTR {
    most = hn::Max(most, hn::Abs(load(d, x + i, lanes)));
  });
  return hn::GetLane(hn::MaxOfLanes(d, most));
}

void round_all(const float* x, std::int64_t count, float scale, std::int8_t* codes) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<std::int32_t, decltype(d)> d32;
  const hn::Rebind<std::int8_t, decltype(d)> d8;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  HWY_ALIGN std::int8_t last[16];
  for (std::int64_t i = 0; i < count; i += step) {
    const std::int64_t here = std::min(step, count - i);
    const auto values = here == step ? hn::LoadU(d, x + i) : load_first(d, x + i, here);
    const auto rounded = hn::NearestInt(hn::Div(values, hn::Set(d, scale)));
    const auto code = hn::Min(hn::Max(rounded, hn::Set(d32, -127)), hn::Set(d32, 127));
    hn::StoreU(hn::DemoteTo(d8, code), d8, last);
    std::memcpy(codes + i, last, static_cast<std::size_t>(here));
  }
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(largest);
HWY_EXPORT(round_all);

namespace {

// The next bf16 number that is not smaller; x is not negative.
BF16 round_up_to_bf16(float x) {
  return {static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(x) + 0xffffu) >> 16)};
}

std::uint8_t as_unsigned(std::int8_t code) { return static_cast<std::uint8_t>(code) ^ 0x80u; }
float from_unsigned(std::uint8_t code) { return static_cast<float>(int{code} - 128); }

}  // namespace

float largest_magnitude(const float* x, std::int64_t count) {
  return HWY_DYNAMIC_DISPATCH(largest)(x, count);
}

BF16 round_to_q8(const float* x, std::int64_t count, std::int8_t* codes) {
  const BF16 scale = round_up_to_bf16(largest_magnitude(x, count) / 127.0f);
  if (scale.bits == 0) {
    std::fill_n(codes, count, std::int8_t{0});
  } else {
    HWY_DYNAMIC_DISPATCH(round_all)(x, count, to_float(scale), codes);
  }
  return scale;
}

void write_q8_row(const Q8Head& head, std::int64_t row, const float* key, const float* value) {
  const Q8Layout& layout = head.layout;
  check(layout.head_dim <= kMaxHeadDim, "q8 cache: heads of at most 512 dimensions");
  std::int8_t codes[kMaxHeadDim + 3] = {};  // whole groups of four
  for (std::int64_t group = 0, first = 0; first < layout.head_dim; ++group, first += kQ8KeyDims) {
    const std::int64_t count = std::min(kQ8KeyDims, layout.head_dim - first);
    head.k_scales[layout.key_scale_index(row, group)] = round_to_q8(key + first, count, codes + first);
  }
  for (std::int64_t d = 0; d < layout.head_dim; d += 4) {
    std::uint8_t four[4];
    for (int i = 0; i < 4; ++i) four[i] = as_unsigned(codes[d + i]);
    std::memcpy(head.k + layout.key_index(row, d), four, sizeof four);
  }
  head.v_scales[row] = round_to_q8(value, layout.head_dim, codes);
  std::int8_t* v = head.v + layout.value_index(row, 0);
  for (std::int64_t d = 0; d < layout.head_dim; ++d) v[4 * d] = codes[d];
}

void unpack_q8_rows(const LayerKv& q8, LayerKv& to, DType dtype, std::int64_t begin, std::int64_t end) {
  const KvLayout layout = kv_layout(to, dtype);
  for (std::int64_t h = 0; h < q8.kv_heads; ++h) {
    const Q8Head head(q8, h);
    const std::int64_t bytes = h * layout.head_elements() * dtype_bytes(dtype, 1);
    std::byte *keys = to.k.as<>() + bytes, *values = to.v.as<>() + bytes;
    for (std::int64_t row = begin; row < end; ++row) {
      const float value_scale = to_float(head.v_scales[row]);
      for (std::int64_t d = 0; d < q8.head_dim; ++d) {
        const float key_scale = to_float(head.k_scales[head.layout.key_scale_index(row, d / kQ8KeyDims)]);
        const float key = key_scale * from_unsigned(head.k[head.layout.key_index(row, d)]),
                    value = value_scale * static_cast<float>(head.v[head.layout.value_index(row, d)]);
        store_element(dtype, keys, layout.key_index(row, d), key);
        store_element(dtype, values, layout.value_index(row, d), value);
      }
    }
  }
}

void copy_q8_rows(const Q8Head& from, const Q8Head& to, std::span<const std::int64_t> rows,
                  std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t old = rows[static_cast<std::size_t>(row)];
    for (std::int64_t d = 0; d < from.layout.head_dim; ++d) {
      to.k[to.layout.key_index(row, d)] = from.k[from.layout.key_index(old, d)];
      to.v[to.layout.value_index(row, d)] = from.v[from.layout.value_index(old, d)];
    }
    for (std::int64_t group = 0; group < from.layout.key_scales(); ++group) {
      to.k_scales[to.layout.key_scale_index(row, group)] =
          from.k_scales[from.layout.key_scale_index(old, group)];
    }
    to.v_scales[row] = from.v_scales[old];
  }
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
