#include "backends/cpu/plan_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/plan_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using F = hn::CappedTag<float, kKeyBlock>;  // a key block is 16 rows wide
using Vec = hn::Vec<F>;

HWY_INLINE std::int64_t lanes_of(F d) { return static_cast<std::int64_t>(hn::Lanes(d)); }

// The lanes of the vector at lane `lane` of a key block that lie in [begin, end) of the block.
HWY_INLINE hn::Mask<F> row_mask(F d, std::int64_t lane, std::int64_t begin, std::int64_t end) {
  const auto first_n = [&](std::int64_t n) HWY_ATTR {
    return hn::FirstN(d, static_cast<std::size_t>(std::clamp<std::int64_t>(n - lane, 0, lanes_of(d))));
  };
  return hn::AndNot(first_n(begin), first_n(end));
}

struct DimSum {
  Vec sum, squares;
  HWY_INLINE void add(Vec x) {
    sum = hn::Add(sum, x);
    squares = hn::MulAdd(x, x, squares);
  }
};

// Dimension d (and d + 1 for bf16, whose dimensions come in pairs) over rows [begin, end).
template <class Add>
HWY_INLINE void for_each_key_vector(F d, const KvLayout& layout, const void* keys, std::int64_t dim,
                                    std::int64_t begin, std::int64_t end, Add add) {
  const hn::RebindToUnsigned<F> du;
  for (std::int64_t row = begin / kKeyBlock * kKeyBlock; row < end; row += kKeyBlock) {
    for (std::int64_t lane = 0; lane < kKeyBlock; lane += lanes_of(d)) {
      const auto mask = row_mask(d, lane, begin - row, end - row);
      if (layout.dtype == DType::kBF16) {
        const auto* pairs = static_cast<const BF16*>(keys) + layout.key_index(row, dim) + 2 * lane;
        const auto bits = hn::LoadU(du, reinterpret_cast<const std::uint32_t*>(pairs));
        add(hn::IfThenElseZero(mask, hn::BitCast(d, hn::ShiftLeft<16>(bits))),
            hn::IfThenElseZero(mask, hn::BitCast(d, hn::And(bits, hn::Set(du, 0xffff0000u)))));
      } else {
        const auto* values = static_cast<const float*>(keys) + layout.key_index(row, dim) + lane;
        add(hn::IfThenElseZero(mask, hn::LoadU(d, values)), hn::Zero(d));
      }
    }
  }
}

void sum_keys_simd(const KvLayout& layout, const void* keys, std::int64_t begin, std::int64_t end,
                   float* sums, float* squares) {
  const F d;
  const std::int64_t step = layout.dtype == DType::kBF16 ? 2 : 1;
  for (std::int64_t dim = 0; dim < layout.head_dim; dim += step) {
    DimSum first{hn::Zero(d), hn::Zero(d)}, second = first;
    for_each_key_vector(d, layout, keys, dim, begin, end, [&](Vec x, Vec y) HWY_ATTR {
      first.add(x);
      second.add(y);
    });
    const DimSum* both[] = {&first, &second};
    for (std::int64_t i = 0; i < std::min(step, layout.head_dim - dim); ++i) {
      sums[dim + i] = hn::GetLane(hn::SumOfLanes(d, both[i]->sum));
      if (squares != nullptr) squares[dim + i] = hn::GetLane(hn::SumOfLanes(d, both[i]->squares));
    }
  }
}

void sum_values_simd(const KvLayout& layout, const void* values, std::int64_t begin, std::int64_t end,
                     float* sums) {
  std::fill_n(sums, layout.head_dim, 0.0f);
  for (std::int64_t row = begin; row < end; ++row) {
    if (layout.dtype == DType::kF32) {
      const float* v = static_cast<const float*>(values) + layout.value_index(row, 0);
      for (std::int64_t dim = 0; dim < layout.head_dim; ++dim) sums[dim] += v[dim];
    } else {
      const BF16* v = static_cast<const BF16*>(values) + layout.value_index(row, 0);
      for (std::int64_t dim = 0; dim < layout.head_dim; ++dim) sums[dim] += to_float(v[2 * dim]);
    }
  }
}

void key_distances_simd(const KvLayout& layout, const void* keys, std::int64_t first, const float* mean,
                        float* distances) {
  const F d;
  const hn::RebindToUnsigned<F> du;
  const bool pairs = layout.dtype == DType::kBF16;
  for (std::int64_t lane = 0; lane < kKeyBlock; lane += lanes_of(d)) {
    Vec sum = hn::Zero(d);
    const auto add = [&](Vec x, std::int64_t dim) HWY_ATTR {
      const Vec difference = hn::Sub(x, hn::Set(d, mean[dim]));
      sum = hn::MulAdd(difference, difference, sum);
    };
    for (std::int64_t dim = 0; dim < layout.head_dim; dim += pairs ? 2 : 1) {
      if (!pairs) {
        add(hn::LoadU(d, static_cast<const float*>(keys) + layout.key_index(first, dim) + lane), dim);
        continue;
      }
      const auto* from = static_cast<const BF16*>(keys) + layout.key_index(first, dim) + 2 * lane;
      const auto bits = hn::LoadU(du, reinterpret_cast<const std::uint32_t*>(from));
      add(hn::BitCast(d, hn::ShiftLeft<16>(bits)), dim);
      if (dim + 1 < layout.head_dim) add(hn::BitCast(d, hn::And(bits, hn::Set(du, 0xffff0000u))), dim + 1);
    }
    hn::StoreU(sum, d, distances + lane);
  }
}

template <class T>
void square_all(const T* x, std::int64_t n, T* y) {
  const F d;
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const auto v = load(d, x + i, lanes);
    store(hn::Mul(v, v), d, y + i, lanes);
  });
}
void square_simd(DType dtype, const void* x, std::int64_t n, void* y) {
  if (dtype == DType::kBF16) {
    square_all(static_cast<const BF16*>(x), n, static_cast<BF16*>(y));
  } else {
    square_all(static_cast<const float*>(x), n, static_cast<float*>(y));
  }
}

void add_scaled_simd(float* s, const float* more, float factor, std::int64_t n) {
  const F d;
  const auto scale = hn::Set(d, factor);
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR {
    store(hn::MulAdd(load(d, more + i, lanes), scale, load(d, s + i, lanes)), d, s + i, lanes);
  });
}

// 2^x for x <= 0, at least 2^-100. Relative error 7.5e-5 (minimax cubic on the fraction): far below what a
// mean key says about its rows. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
HWY_INLINE Vec exp2_coarse(F d, Vec x) {
  const hn::RebindToUnsigned<F> du;
  const Vec shifter = hn::Set(d, 12582912.0f);
  const Vec bounded = hn::Max(x, hn::Set(d, -100.0f));
  const Vec shifted = hn::Add(bounded, shifter);
  const Vec f = hn::Sub(bounded, hn::Sub(shifted, shifter));
  Vec p = hn::MulAdd(f, hn::Set(d, 0.0551716672f), hn::Set(d, 0.242611122f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.693260986f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.999928074f));
  return hn::BitCast(d, hn::Add(hn::BitCast(du, p), hn::ShiftLeft<23>(hn::BitCast(du, shifted))));
}

// Hides the last group's pools behind the query's own, and weighs that one by what the query sees of it.
HWY_INLINE void mark_own_pool(F d, const PooledScores& p, const PoolColumns& columns, float scale) {
  const std::int64_t per_block = columns.pools_per_block, parts = columns.parts;
  const std::int64_t block = p.own_pool / per_block;
  float* group = p.s + block / kKeyBlock * columns.group();
  const std::int64_t own = block % kKeyBlock, number = p.own_pool % per_block;
  for (std::int64_t i = 0; i < per_block * parts; ++i) {
    if (i / parts == number) group[i * kKeyBlock + own] += p.own_log_share / scale;
    const std::int64_t visible = own + (i / parts <= number ? 1 : 0);
    for (std::int64_t lane = 0; lane < kKeyBlock; lane += lanes_of(d)) {
      float* s = group + i * kKeyBlock + lane;
      const auto seen = row_mask(d, lane, 0, visible);
      hn::StoreU(hn::IfThenElse(seen, hn::LoadU(d, s), hn::Set(d, -std::numeric_limits<float>::infinity())),
                 d, s);
    }
  }
}

// The same for the pools before what the query sees.
HWY_INLINE void mark_first_pool(F d, const PooledScores& p, const PoolColumns& columns, float scale) {
  if (p.first_pool == 0 && p.first_log_share == 0) return;
  const std::int64_t per_block = columns.pools_per_block, parts = columns.parts;
  const std::int64_t first = p.first_pool / per_block, number = p.first_pool % per_block;
  for (std::int64_t i = 0; i < per_block * parts; ++i) {
    if (i / parts == number) p.s[i * kKeyBlock + first] += p.first_log_share / scale;
    const std::int64_t hidden = first + (i / parts < number ? 1 : 0);
    for (std::int64_t lane = 0; lane < kKeyBlock; lane += lanes_of(d)) {
      float* s = p.s + i * kKeyBlock + lane;
      const auto unseen = row_mask(d, lane, 0, hidden);
      hn::StoreU(hn::IfThenElse(unseen, hn::Set(d, -std::numeric_limits<float>::infinity()), hn::LoadU(d, s)),
                 d, s);
    }
  }
}

HWY_INLINE float highest(F d, const float* s, std::int64_t n) {
  const std::int64_t step = lanes_of(d);
  Vec result = hn::LoadU(d, s);
  for (std::int64_t i = step; i < n; i += step) result = hn::Max(result, hn::LoadU(d, s + i));
  return hn::GetLane(hn::MaxOfLanes(d, result));
}

// Turns scores into the sums over each block's columns of shares x 2^(factor (s - highest)), which take the
// front of `s`, 16 blocks after another; returns the sum of them all.
HWY_INLINE float sum_blocks(F d, float* s, std::int64_t n, const PoolColumns& columns, float factor,
                            float highest) {
  const Vec vfactor = hn::Set(d, factor);
  const std::int64_t group = columns.group(), parts_width = columns.parts * kKeyBlock;
  Vec total = hn::Zero(d);
  float* to = s;
  for (const float* from = s; from != s + n; from += group, to += kKeyBlock) {
    for (std::int64_t lane = 0; lane < kKeyBlock; lane += lanes_of(d)) {
      Vec sum = hn::Zero(d);
      for (std::int64_t part = 0; part < columns.parts; ++part) {
        const Vec shift = hn::Set(d, highest * factor - columns.log2_shares[part]);
        for (std::int64_t i = part * kKeyBlock; i < group; i += parts_width) {
          sum = hn::Add(sum, exp2_coarse(d, hn::MulSub(hn::LoadU(d, from + i + lane), vfactor, shift)));
        }
      }
      total = hn::Add(total, sum);
      hn::StoreU(sum, d, to + lane);
    }
  }
  return hn::GetLane(hn::SumOfLanes(d, total));
}

template <class Merge>
HWY_INLINE void merge_blocks(F d, const PooledScores& p, std::int64_t blocks, float inverse, Merge merge) {
  const Vec factor = hn::Set(d, inverse);
  for (std::int64_t i = 0; i < blocks; i += lanes_of(d)) {
    hn::StoreU(merge(hn::LoadU(d, p.s + i), factor, hn::LoadU(d, p.estimates + i)), d, p.estimates + i);
  }
}

void fold_pools_simd(std::span<const PooledScores> scores, const PoolColumns& columns, float scale,
                     BlockCriterion criterion) {
  const F d;
  const std::int64_t group = columns.group();
  const float factor = scale * 1.44269504f;
  float tops[kFoldRows], sums[kFoldRows];
  std::int64_t n[kFoldRows];
  for (std::size_t i = 0; i < scores.size(); ++i) {
    mark_own_pool(d, scores[i], columns, scale);
    mark_first_pool(d, scores[i], columns, scale);
    n[i] = (scores[i].own_pool / columns.pools_per_block / kKeyBlock + 1) * group;
  }
  for (std::size_t i = 0; i < scores.size(); ++i) tops[i] = highest(d, scores[i].s, n[i]);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    sums[i] = sum_blocks(d, scores[i].s, n[i], columns, factor, tops[i]);
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const std::int64_t blocks = n[i] / group * kKeyBlock;
    if (criterion == BlockCriterion::kMass) {
      merge_blocks(d, scores[i], blocks, 1.0f / sums[i],
                   [](Vec sum, Vec share, Vec old) HWY_ATTR { return hn::MulAdd(sum, share, old); });
    } else {
      merge_blocks(d, scores[i], blocks, 1.0f / sums[i],
                   [](Vec sum, Vec share, Vec old) HWY_ATTR { return hn::Max(hn::Mul(sum, share), old); });
    }
  }
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {
HWY_EXPORT(sum_keys_simd);
HWY_EXPORT(sum_values_simd);
HWY_EXPORT(key_distances_simd);
HWY_EXPORT(square_simd);
HWY_EXPORT(add_scaled_simd);
HWY_EXPORT(fold_pools_simd);

void sum_keys(const KvLayout& layout, const void* keys, std::int64_t begin, std::int64_t end, float* sums,
              float* squares) {
  HWY_DYNAMIC_DISPATCH(sum_keys_simd)(layout, keys, begin, end, sums, squares);
}
void sum_values(const KvLayout& layout, const void* values, std::int64_t begin, std::int64_t end,
                float* sums) {
  HWY_DYNAMIC_DISPATCH(sum_values_simd)(layout, values, begin, end, sums);
}
void key_distances(const KvLayout& layout, const void* keys, std::int64_t first, const float* mean,
                   float* distances) {
  HWY_DYNAMIC_DISPATCH(key_distances_simd)(layout, keys, first, mean, distances);
}
void square(DType dtype, const void* x, std::int64_t n, void* y) {
  HWY_DYNAMIC_DISPATCH(square_simd)(dtype, x, n, y);
}
void add_scaled(float* s, const float* more, float factor, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(add_scaled_simd)(s, more, factor, n);
}
void fold_pools(std::span<const PooledScores> scores, const PoolColumns& columns, float scale,
                BlockCriterion criterion) {
  HWY_DYNAMIC_DISPATCH(fold_pools_simd)(scores, columns, scale, criterion);
}
}  // namespace winnow::cpu
#endif
