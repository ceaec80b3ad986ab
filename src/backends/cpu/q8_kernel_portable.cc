// Decode attention over q8 caches for any machine: 32 bits of the cache are one lane, which four shifts make
// into its four codes.
#include <algorithm>
#include <limits>
#include <numbers>

#include "backends/cpu/decode_kernel.h"
#include "backends/cpu/q8_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/q8_kernel_portable.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/bf16-inl.h"
#include "backends/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::CappedTag<float, 16>;  // rows of a block of keys, or dimensions of values
using IntTag = hn::Rebind<std::int32_t, Tag>;
using Vec = hn::Vec<Tag>;
using IntVec = hn::Vec<IntTag>;

constexpr int kMostHeads = 4;  // that share what is loaded

HWY_INLINE IntVec load_codes(const void* p) {
  return hn::LoadU(IntTag(), reinterpret_cast<const std::int32_t*>(p));
}
// Byte kByte of every lane, signed.
template <int kByte>
HWY_INLINE Vec code(IntVec four) {
  return hn::ConvertTo(Tag(), hn::ShiftRight<24>(hn::ShiftLeft<24 - 8 * kByte>(four)));
}

// sums[h] += factors[h][0] code 0 + ... + factors[h][3] code 3
template <int kByte = 0>
HWY_INLINE void add_products(IntVec four, const float* const* factors, std::int64_t at, int heads,
                             Vec* sums) {
  const Vec c = code<kByte>(four);
  for (int h = 0; h < heads; ++h) {
    sums[h] = hn::MulAdd(c, hn::Set(Tag(), factors[h][at + kByte]), sums[h]);
  }
  if constexpr (kByte < 3) add_products<kByte + 1>(four, factors, at, heads, sums);
}

// s[head][row] = scale q . k
HWY_INLINE void scores(const Q8Piece& piece, const Q8Query* q, int heads, std::int64_t rows,
                       float (*s)[kPieceRows]) {
  const Q8Layout& layout = piece.cache.layout;
  const Tag d;
  const std::int64_t lanes = hn::Lanes(d), dims = layout.padded_dim();
  const auto all_signed = hn::Set(IntTag(), static_cast<std::int32_t>(0x80808080));
  const float* factors[kMostHeads];
  for (int h = 0; h < heads; ++h) factors[h] = q[h].values;
  for (std::int64_t r = 0; r < rows; r += lanes) {
    const std::int64_t row = piece.range.begin + r;
    Vec sums[kMostHeads];
    std::fill_n(sums, heads, hn::Zero(d));
    for (std::int64_t first = 0; first < dims; first += kQ8KeyDims) {
      Vec of_group[kMostHeads];
      std::fill_n(of_group, heads, hn::Zero(d));
      for (std::int64_t dim = first; dim < std::min(dims, first + kQ8KeyDims); dim += 4) {
        const IntVec four = hn::Xor(load_codes(piece.cache.k + layout.key_index(row, dim)), all_signed);
        add_products(four, factors, dim, heads, of_group);
      }
      const BF16* scales = piece.cache.k_scales + layout.key_scale_index(row, first / kQ8KeyDims);
      const Vec scale = load(d, scales, AllLanes());
      for (int h = 0; h < heads; ++h) sums[h] = hn::MulAdd(of_group[h], scale, sums[h]);
    }
    for (int h = 0; h < heads; ++h) {
      hn::StoreU(hn::Mul(sums[h], hn::Set(d, piece.range.scale_log2)), d, s[h] + r);
    }
  }
}

// s becomes 2^(s - maximum) times the row's scale of values, zeros outside of rows [first, end).
HWY_INLINE void weights(const Q8Piece& piece, std::int64_t first, std::int64_t end, std::int64_t rows,
                        float* s, float& maximum, float& sum) {
  const Tag d;
  const std::int64_t lanes = hn::Lanes(d);
  maximum = *std::max_element(s + first, s + end);
  std::fill(s, s + first, -std::numeric_limits<float>::infinity());
  std::fill(s + end, s + rows, -std::numeric_limits<float>::infinity());
  Vec total = hn::Zero(d);
  for (std::int64_t r = 0; r < rows; r += lanes) {
    const Vec score = hn::LoadU(d, s + r);
    const Vec exponent = hn::Mul(hn::Sub(score, hn::Set(d, maximum)), hn::Set(d, std::numbers::ln2_v<float>));
    const auto unseen = hn::Eq(score, hn::Set(d, -std::numeric_limits<float>::infinity()));
    const Vec p = hn::IfThenZeroElse(unseen, exp(d, exponent));
    total = hn::Add(total, p);
    const Vec scale = load(d, piece.cache.v_scales + piece.range.begin + r, AllLanes());
    hn::StoreU(hn::IfThenZeroElse(unseen, hn::Mul(p, scale)), d, s + r);
  }
  sum = hn::GetLane(hn::SumOfLanes(d, total));
}

// out[head] = sum over the rows of w[head][row] v[row]
HWY_INLINE void values(const Q8Piece& piece, const float (*w)[kPieceRows], int heads, std::int64_t rows,
                       float* out) {
  const Q8Layout& layout = piece.cache.layout;
  const Tag d;
  const std::int64_t lanes = hn::Lanes(d), dims = layout.head_dim;
  const float* factors[kMostHeads];
  for (int h = 0; h < heads; ++h) factors[h] = w[h];
  for (std::int64_t dim = 0; dim < dims; dim += lanes) {
    Vec sums[kMostHeads];
    std::fill_n(sums, heads, hn::Zero(d));
    for (std::int64_t r = 0; r < rows; r += 4) {
      add_products(load_codes(piece.cache.v + layout.value_index(piece.range.begin + r, dim)), factors, r,
                   heads, sums);
    }
    for (int h = 0; h < heads; ++h) {
      float* to = out + h * dims + dim;
      if (dim + lanes <= dims) {
        hn::StoreU(sums[h], d, to);
      } else {
        store_first(sums[h], d, to, static_cast<std::size_t>(dims - dim));
      }
    }
  }
}

void attend(const Q8Piece& piece) {
  const std::int64_t end = piece.range.end - piece.range.begin, rows = (end + 31) / 32 * 32;
  const std::int64_t first = std::max<std::int64_t>(0, piece.range.first - piece.range.begin);
  for (std::int64_t head = 0; head < piece.range.heads; head += kMostHeads) {
    const int heads = static_cast<int>(std::min<std::int64_t>(kMostHeads, piece.range.heads - head));
    float s[kMostHeads][kPieceRows];
    scores(piece, piece.q + head, heads, rows, s);
    for (int h = 0; h < heads; ++h) {
      weights(piece, first, end, rows, s[h], piece.range.maximum[head + h], piece.range.sum[head + h]);
    }
    values(piece, s, heads, rows, piece.range.out + head * piece.cache.layout.head_dim);
  }
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(attend);

const Q8Kernel& portable_q8_kernel() {
  static const Q8Kernel kernel = {"portable", [](const Q8Piece& piece) {
                                    HWY_DYNAMIC_DISPATCH(attend)(piece);
                                  }};
  return kernel;
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
