// Rotary embedding of queries and keys, and the scatter of keys and values into the layout of kv_layout.h.
//
// Keys: a row is rotated into a buffer on the stack, then goes out in 32-bit words, 16 words apart: a word is
// one float32 dimension or a pair of bfloat16 ones, so both types share the code. The loop takes 16 rows of
// one kv head at a time, because together they fill the cache lines that each touches in part. Values:
// float32 rows are copied; bfloat16 rows go out two at a time, interleaved. A row without its partner writes
// 2-byte elements, as another thread may be writing the partner. Caches in 8 bits: a row is rounded from what
// the other cache would hold (q8_cache.h).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/kernels.h"
#include "backends/cpu/kv_layout.h"
#include "backends/cpu/q8_cache.h"
#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/rope_append.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/bf16-inl.h"
#include "backends/cpu/reduce-inl.h"

#ifndef WINNOW_BACKENDS_CPU_ROPE_APPEND_ONCE
#define WINNOW_BACKENDS_CPU_ROPE_APPEND_ONCE
namespace winnow::cpu {
constexpr std::int64_t kMaxKeyDim = 1024;  // of the buffer for one rotated key
}  // namespace winnow::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;

// y = x with its first rotary_dim dimensions rotated by the angles of `position`.
template <class X, class Y>
HWY_INLINE void rotate_head(const RopeTable& rope, std::int64_t position, const X* x, std::int64_t head_dim,
                            Y* y) {
  const Tag d;
  const std::int64_t half = rope.rotary_dim / 2;
  const float* cos_row = rope.cos.as<float>() + position * half;
  const float* sin_row = rope.sin.as<float>() + position * half;
  for_each_vector(d, half, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec cos = load(d, cos_row + i, lanes), sin = load(d, sin_row + i, lanes);
    const Vec first = load(d, x + i, lanes), second = load(d, x + half + i, lanes);
    store(hn::NegMulAdd(second, sin, hn::Mul(first, cos)), d, y + i, lanes);
    store(hn::MulAdd(first, sin, hn::Mul(second, cos)), d, y + half + i, lanes);
  });
  for_each_vector(d, head_dim - 2 * half, [&](std::int64_t i, auto lanes) HWY_ATTR {
    store(load(d, x + 2 * half + i, lanes), d, y + 2 * half + i, lanes);
  });
}

// The same after the head's own norm, if there is one.
template <class T>
HWY_INLINE void norm_and_rotate_head(const RopeAppendParams& p, const float* norm, std::int64_t row,
                                     const T* x, T* y) {
  const std::int64_t dim = p.kv->head_dim;
  if (norm == nullptr) return rotate_head(*p.rope, p.positions[row], x, dim, y);
  HWY_ALIGN float normed[kMaxKeyDim];
  const float scale = 1.0f / std::sqrt(sum_of_squares(x, dim) / static_cast<float>(dim) + p.norm_epsilon);
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec scaled = hn::Mul(load(d, x + i, lanes), hn::Set(d, scale));
    store(hn::Mul(scaled, load(d, norm + i, lanes)), d, normed + i, lanes);
  });
  rotate_head(*p.rope, p.positions[row], normed, dim, y);
}

// The cache's side of the op: where rows of one kv head go.
template <class T>
struct CacheHead {
  KvLayout layout;
  T* k;
  T* v;

  std::int64_t key_words() const {
    return layout.padded_dim() * static_cast<std::int64_t>(sizeof(T)) /
           static_cast<std::int64_t>(sizeof(std::uint32_t));
  }

  // `key`: [padded_dim]
  void write_key(std::int64_t row, const T* key) const {
    const std::int64_t words = key_words();
    auto* out = reinterpret_cast<std::byte*>(k + layout.key_index(row, 0));
    const auto* in = reinterpret_cast<const std::byte*>(key);
    constexpr std::size_t kWord = sizeof(std::uint32_t);
    for (std::int64_t w = 0; w < words; ++w) {
      std::memcpy(out + w * kKeyBlock * kWord, in + w * kWord, kWord);
    }
  }

  void write_value(std::int64_t row, const T* value) const {
    T* out = v + layout.value_index(row, 0);
    const std::int64_t stride = layout.value_index(0, 1);
    for (std::int64_t i = 0; i < layout.head_dim; ++i) out[i * stride] = value[i];
  }
};

// Rows `row` (even) and row + 1 of a bfloat16 cache: out[2 i] = even[i], out[2 i + 1] = odd[i].
HWY_INLINE void write_value_pair(const CacheHead<BF16>& head, std::int64_t row, const BF16* even,
                                 const BF16* odd) {
  BF16* out = head.v + head.layout.value_index(row, 0);
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // its vectors of one word do not split into two elements
  const hn::ScalableTag<std::uint32_t> du;
  const hn::Rebind<std::uint16_t, decltype(du)> d16;
  const hn::Repartition<std::uint16_t, decltype(du)> d16_pairs;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(du));
  for (; i + lanes <= head.layout.head_dim; i += lanes) {
    const auto low = hn::PromoteTo(du, hn::LoadU(d16, &even[i].bits));
    const auto high = hn::PromoteTo(du, hn::LoadU(d16, &odd[i].bits));
    const auto pairs = hn::Or(low, hn::ShiftLeft<16>(high));
    hn::StoreU(hn::BitCast(d16_pairs, pairs), d16_pairs, &out[2 * i].bits);
  }
#endif
  for (; i < head.layout.head_dim; ++i) {
    out[2 * i] = even[i];
    out[2 * i + 1] = odd[i];
  }
}

void write_values(const CacheHead<BF16>& head, std::int64_t row, std::int64_t count, const BF16* values,
                  std::int64_t stride) {
  std::int64_t i = 0;
  if (row % 2 == 1 && count > 0) head.write_value(row, values), i = 1;
  for (; i + 2 <= count; i += 2)
    write_value_pair(head, row + i, values + i * stride, values + (i + 1) * stride);
  if (i < count) head.write_value(row + i, values + i * stride);
}

void write_values(const CacheHead<float>& head, std::int64_t row, std::int64_t count, const float* values,
                  std::int64_t stride) {
  const auto bytes = static_cast<std::size_t>(head.layout.head_dim) * sizeof(float);
  for (std::int64_t i = 0; i < count; ++i) {
    std::memcpy(head.v + head.layout.value_index(row + i, 0), values + i * stride, bytes);
  }
}

template <class T>
void rotate_queries(const RopeAppendParams& p, std::int64_t begin, std::int64_t end) {
  const std::int64_t dim = p.kv->head_dim;
  for (std::int64_t r = begin; r < end; ++r) {
    const T* x = p.qkv.row<T>(r);
    T* y = p.q.row<T>(r);
    for (std::int64_t i = 0; i < p.q.cols; i += dim) norm_and_rotate_head(p, p.q_norm, r, x + i, y + i);
  }
}

template <class T>
void append_head(const RopeAppendParams& p, const CacheHead<T>& head, std::int64_t kv_head,
                 std::int64_t first_row, std::int64_t begin, std::int64_t end) {
  const std::int64_t dim = p.kv->head_dim;
  HWY_ALIGN T rotated[kMaxKeyDim + 1];
  rotated[dim] = T{};  // an odd dimension's padding
  for (std::int64_t r = begin; r < end; ++r) {
    const T* k = p.qkv.row<T>(r) + p.q.cols + kv_head * dim;
    norm_and_rotate_head(p, p.k_norm, r, k, rotated);
    head.write_key(first_row + r, rotated);
  }
  const T* values = p.qkv.row<T>(begin) + p.q.cols + (p.kv->kv_heads + kv_head) * dim;
  write_values(head, first_row + begin, end - begin, values, p.qkv.cols);
}

template <class T>
void append_q8_head(const RopeAppendParams& p, const Q8Head& head, std::int64_t kv_head,
                    std::int64_t first_row, std::int64_t begin, std::int64_t end) {
  const std::int64_t dim = p.kv->head_dim;
  const Tag d;
  HWY_ALIGN T rotated[kMaxKeyDim];
  HWY_ALIGN float key[kMaxKeyDim], value[kMaxKeyDim];
  for (std::int64_t r = begin; r < end; ++r) {
    const T* k = p.qkv.row<T>(r) + p.q.cols + kv_head * dim;
    const T* v = k + p.kv->kv_heads * dim;
    norm_and_rotate_head(p, p.k_norm, r, k, rotated);
    for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
      store(load(d, rotated + i, lanes), d, key + i, lanes);
      store(load(d, v + i, lanes), d, value + i, lanes);
    });
    write_q8_row(head, first_row + r, key, value);
  }
}

template <class T>
void append(const RopeAppendParams& p, DType dtype, std::int64_t first_row, std::int64_t begin,
            std::int64_t end) {
  const KvLayout layout = kv_layout(*p.kv, dtype);
  for (std::int64_t r = begin; r < end;) {
    const std::int64_t block_end = std::min(end, ((first_row + r) / kKeyBlock + 1) * kKeyBlock - first_row);
    rotate_queries<T>(p, r, block_end);
    for (std::int64_t h = 0; h < p.kv->kv_heads && p.kv->type == KvType::kSame; ++h) {
      const std::int64_t offset = h * layout.head_elements();
      const CacheHead<T> head{layout, p.kv->k.as<T>() + offset, p.kv->v.as<T>() + offset};
      append_head(p, head, h, first_row, r, block_end);
    }
    const LayerKv* q8 = p.kv->type == KvType::kQ8 ? p.kv : p.q8;
    for (std::int64_t h = 0; q8 != nullptr && h < p.kv->kv_heads; ++h) {
      append_q8_head<T>(p, Q8Head(*q8, h), h, first_row, r, block_end);
    }
    r = block_end;
  }
}

void append_f32(const RopeAppendParams& p, std::int64_t first_row, std::int64_t begin, std::int64_t end) {
  append<float>(p, DType::kF32, first_row, begin, end);
}
void append_bf16(const RopeAppendParams& p, std::int64_t first_row, std::int64_t begin, std::int64_t end) {
  append<BF16>(p, DType::kBF16, first_row, begin, end);
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(append_f32);
HWY_EXPORT(append_bf16);

void rope_append_rows(const RopeAppendParams& params, std::int64_t first_row, std::int64_t begin,
                      std::int64_t end) {
  const LayerKv& kv = *params.kv;
  check(kv.head_dim <= kMaxKeyDim, "rope_append: heads of at most 1024 dimensions");
  check(params.rope->rotary_dim <= kv.head_dim, "rope_append: rotary_dim fits the head");
  check((params.q_norm == nullptr) == (params.k_norm == nullptr), "rope_append: norms for q and k, or none");
  check(params.qkv.cols == params.q.cols + 2 * kv.kv_heads * kv.head_dim, "rope_append: a row is q | k | v");
  check(first_row + end <= kv.capacity, "rope_append: the cache has room");
  for (std::int64_t r = begin; r < end; ++r) {
    check(params.rope->rotary_dim == 0 || params.positions[r] < params.rope->positions,
          "rope: a known position");
  }
  if (params.qkv.dtype == DType::kBF16) {
    HWY_DYNAMIC_DISPATCH(append_bf16)(params, first_row, begin, end);
  } else {
    HWY_DYNAMIC_DISPATCH(append_f32)(params, first_row, begin, end);
  }
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
