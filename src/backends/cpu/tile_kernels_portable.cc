// Tile kernels for any machine Highway knows, on float arithmetic; a bf16 cache is widened on the fly.
#include <algorithm>
#include <cmath>

#include "backends/cpu/tile_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/tile_kernels_portable.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "backends/cpu/bf16-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, 16>;  // a key block is 16 wide
constexpr std::int64_t kRows = 8;    // queries of one register block

// The even and odd elements of 2 * Lanes consecutive bf16.
struct Pairs {
  hn::Vec<F> even, odd;
};
HWY_INLINE Pairs load_pairs(F d, const BF16* p) {
  const hn::RebindToUnsigned<F> du;
  const auto bits = hn::LoadU(du, reinterpret_cast<const std::uint32_t*>(p));
  return {hn::BitCast(d, hn::ShiftLeft<16>(bits)), hn::BitCast(d, hn::And(bits, hn::Set(du, 0xffff0000u)))};
}

// sum[r] += q[row + r] . keys, for one vector of keys.
template <bool kPairs>
HWY_INLINE void score_vector(F d, const float* q, const void* block, std::int64_t lane, std::int64_t dim,
                             float* s, std::int64_t s_stride) {
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
  const auto add = [&](std::int64_t i, auto k) HWY_ATTR {
    s0 = hn::MulAdd(hn::Set(d, q[i]), k, s0);
    s1 = hn::MulAdd(hn::Set(d, q[dim + i]), k, s1);
    s2 = hn::MulAdd(hn::Set(d, q[2 * dim + i]), k, s2);
    s3 = hn::MulAdd(hn::Set(d, q[3 * dim + i]), k, s3);
    s4 = hn::MulAdd(hn::Set(d, q[4 * dim + i]), k, s4);
    s5 = hn::MulAdd(hn::Set(d, q[5 * dim + i]), k, s5);
    s6 = hn::MulAdd(hn::Set(d, q[6 * dim + i]), k, s6);
    s7 = hn::MulAdd(hn::Set(d, q[7 * dim + i]), k, s7);
  };
  if constexpr (kPairs) {
    const auto* k = static_cast<const BF16*>(block) + 2 * lane;
    for (std::int64_t i = 0; i < dim; i += 2, k += 32) {
      const Pairs pair = load_pairs(d, k);
      add(i, pair.even);
      add(i + 1, pair.odd);
    }
  } else {
    const auto* k = static_cast<const float*>(block) + lane;
    for (std::int64_t i = 0; i < dim; ++i, k += 16) add(i, hn::LoadU(d, k));
  }
  hn::StoreU(s0, d, s);
  hn::StoreU(s1, d, s + s_stride);
  hn::StoreU(s2, d, s + 2 * s_stride);
  hn::StoreU(s3, d, s + 3 * s_stride);
  hn::StoreU(s4, d, s + 4 * s_stride);
  hn::StoreU(s5, d, s + 5 * s_stride);
  hn::StoreU(s6, d, s + 6 * s_stride);
  hn::StoreU(s7, d, s + 7 * s_stride);
}

// `rows` is a multiple of kRows.
template <bool kPairs>
void scores(const float* q, std::int64_t rows, const KeyBlocks& blocks, std::int64_t dim, float* s,
            std::int64_t s_stride) {
  const F d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int32_t block = 0; block < blocks.count; ++block) {
    for (std::int64_t lane = 0; lane < kKeyBlock; lane += lanes) {
      for (std::int64_t row = 0; row < rows; row += kRows) {
        score_vector<kPairs>(d, q + row * dim, blocks.at<std::byte>(block), lane, dim,
                             s + row * s_stride + block * kKeyBlock + lane, s_stride);
      }
    }
  }
}

void scores_f32(const void* q, const void* k, std::int64_t dim, std::int64_t keys, float* s,
                std::int64_t s_stride) {
  for_consecutive_blocks(k, dim * 4, keys, s, [&](const KeyBlocks& blocks, float* to) HWY_ATTR {
    scores<false>(static_cast<const float*>(q), kTileQueries, blocks, dim, to, s_stride);
  });
}

void widen(const BF16* q, std::int64_t n, float* wide) {
  for (std::int64_t i = 0; i < n; ++i) wide[i] = to_float(q[i]);
}

void scores_bf16(const void* q, const void* k, std::int64_t dim, std::int64_t keys, float* s,
                 std::int64_t s_stride) {
  HWY_ALIGN float wide[kTileQueries * kMaxHeadDim];
  widen(static_cast<const BF16*>(q), kTileQueries * dim, wide);
  for_consecutive_blocks(k, dim * 2, keys, s, [&](const KeyBlocks& blocks, float* to) HWY_ATTR {
    scores<true>(wide, kTileQueries, blocks, dim, to, s_stride);
  });
}

void raise_maximum(QueryTile& tile, std::int64_t q, float maximum, std::int64_t dim) {
  const float old = tile.maximum[q];
  tile.maximum[q] = maximum;
  if (std::isinf(old)) return;  // nothing gathered yet
  const float factor = std::exp2(old - maximum);
  for (float& sum : tile.sums[q]) sum *= factor;
  for (std::int64_t d = 0; d < dim; ++d) tile.o.as<float>()[q * dim + d] *= factor;
}

// The keys [begin, end) of a step that a query sees, vector by vector.
struct SeenKeys {
  std::int64_t begin, end;

  // fn(key, lanes) for every vector with a key that is seen.
  template <class Fn>
  HWY_INLINE void for_each_vector(F d, Fn fn) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const auto first_n = [&](std::int64_t n) HWY_ATTR {
      return hn::FirstN(d, static_cast<std::size_t>(std::clamp<std::int64_t>(n, 0, lanes)));
    };
    for (std::int64_t key = begin / lanes * lanes; key < end; key += lanes) {
      fn(key, hn::AndNot(first_n(begin - key), first_n(end - key)));
    }
  }
};

// One row's highest score among the keys seen; -infinity if there is none.
float highest(const float* row, SeenKeys seen) {
  const F d;
  auto vmax = hn::Set(d, -INFINITY);
  seen.for_each_vector(d, [&](std::int64_t key, auto lanes) HWY_ATTR {
    vmax = hn::Max(vmax, hn::IfThenElse(lanes, hn::LoadU(d, row + key), vmax));
  });
  return hn::GetLane(hn::MaxOfLanes(d, vmax));
}

void softmax_row(float* row, std::int64_t keys, SeenKeys seen, QueryTile& tile, std::int64_t q, float scale,
                 std::int64_t dim) {
  const F d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float maximum = highest(row, seen) * scale;
  // A row that sees no key here may have seen none before: -infinity - -infinity.
  if (maximum == -INFINITY) {
    std::fill_n(row, keys, 0.0f);
    return;
  }
  if (maximum > tile.maximum[q] + kRescaleSlack) raise_maximum(tile, q, maximum, dim);
  constexpr float kLn2 = 0.6931471805599453f;
  const auto vscale = hn::Set(d, scale * kLn2), shift = hn::Set(d, tile.maximum[q] * kLn2);
  auto sum = hn::LoadU(d, tile.sums[q]);
  std::fill_n(row, seen.begin / lanes * lanes, 0.0f);
  seen.for_each_vector(d, [&](std::int64_t key, auto seen_lanes) HWY_ATTR {
    const auto p =
        hn::IfThenElseZero(seen_lanes, hn::Exp(d, hn::MulSub(hn::LoadU(d, row + key), vscale, shift)));
    sum = hn::Add(sum, p);
    hn::StoreU(p, d, row + key);
  });
  hn::StoreU(sum, d, tile.sums[q]);
  const std::int64_t done = (seen.end + lanes - 1) / lanes * lanes;
  std::fill_n(row + done, keys - done, 0.0f);
}

// row = row * scale + bias
void add_bias(float* row, std::int64_t keys, const float* bias, float scale) {
  const F d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t k = 0; k < keys; k += lanes) {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, row + k), hn::Set(d, scale), hn::LoadU(d, bias + k)), d, row + k);
  }
}

// Turns scores into probabilities e^((s - maximum) * scale), in place; `scale` is in units of log2.
void softmax(const TileStep& step, float* s, float scale, std::int64_t dim) {
  QueryTile& tile = *step.tile;
  for (std::int64_t q = 0; q < tile.rows; ++q) {
    float* row = s + q * kScoreStride;
    if (step.bias != nullptr) {
      add_bias(row, step.keys(), step.bias + q * step.bias_stride, scale);
      softmax_row(row, step.keys(), {0, step.keys()}, tile, q, 1.0f, dim);
    } else {
      const SeenKeys seen{step.below(tile.firsts[q]), step.below(tile.limits[q])};
      softmax_row(row, step.keys(), seen, tile, q, scale, dim);
    }
  }
}

// o[row + r] += p[row + r] . the values of one block, for one vector of dimensions; only the first `count`
// lanes exist.
template <bool kPairs>
HWY_INLINE void accumulate_vector(F d, const float* p, const KeyBlocks& blocks, std::int64_t first_dim,
                                  std::int64_t dim, float* o, std::int64_t count) {
  const hn::RebindToUnsigned<F> du;
  const bool full = count >= static_cast<std::int64_t>(hn::Lanes(d));
  const auto load = [&](const float* from)
                        HWY_ATTR { return full ? hn::LoadU(d, from) : load_first(d, from, count); };
  decltype(hn::Zero(d)) s0 = load(o), s1 = load(o + dim), s2 = load(o + 2 * dim), s3 = load(o + 3 * dim);
  decltype(hn::Zero(d)) s4 = load(o + 4 * dim), s5 = load(o + 5 * dim), s6 = load(o + 6 * dim),
                        s7 = load(o + 7 * dim);
  const auto add = [&](std::int64_t key, auto x) HWY_ATTR {
    s0 = hn::MulAdd(hn::Set(d, p[key]), x, s0);
    s1 = hn::MulAdd(hn::Set(d, p[kScoreStride + key]), x, s1);
    s2 = hn::MulAdd(hn::Set(d, p[2 * kScoreStride + key]), x, s2);
    s3 = hn::MulAdd(hn::Set(d, p[3 * kScoreStride + key]), x, s3);
    s4 = hn::MulAdd(hn::Set(d, p[4 * kScoreStride + key]), x, s4);
    s5 = hn::MulAdd(hn::Set(d, p[5 * kScoreStride + key]), x, s5);
    s6 = hn::MulAdd(hn::Set(d, p[6 * kScoreStride + key]), x, s6);
    s7 = hn::MulAdd(hn::Set(d, p[7 * kScoreStride + key]), x, s7);
  };
  for (std::int32_t b = 0; b < blocks.count; ++b) {
    const std::int64_t key = b * kKeyBlock, end = key + kKeyBlock;
    if constexpr (kPairs) {
      const auto* values = blocks.at<std::uint32_t>(b) + first_dim;  // one element a pair of rows
      for (std::int64_t i = key; i < end; i += 2, values += dim) {
        const auto bits = full ? hn::LoadU(du, values) : load_first(du, values, count);
        add(i, hn::BitCast(d, hn::ShiftLeft<16>(bits)));
        add(i + 1, hn::BitCast(d, hn::And(bits, hn::Set(du, 0xffff0000u))));
      }
    } else {
      const float* values = blocks.at<float>(b) + first_dim;
      for (std::int64_t i = key; i < end; ++i, values += dim) add(i, load(values));
    }
  }
  const auto store = [&](auto x, float* to) HWY_ATTR {
    if (full) {
      hn::StoreU(x, d, to);
    } else {
      store_first(x, d, to, count);
    }
  };
  store(s0, o);
  store(s1, o + dim);
  store(s2, o + 2 * dim);
  store(s3, o + 3 * dim);
  store(s4, o + 4 * dim);
  store(s5, o + 5 * dim);
  store(s6, o + 6 * dim);
  store(s7, o + 7 * dim);
}

template <bool kPairs>
void accumulate(const float* p, std::int64_t rows, const KeyBlocks& blocks, std::int64_t dim, float* o) {
  const F d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t i = 0; i < dim; i += lanes) {
    for (std::int64_t row = 0; row < rows; row += kRows) {
      accumulate_vector<kPairs>(d, p + row * kScoreStride, blocks, i, dim, o + row * dim + i, dim - i);
    }
  }
}

// `q` holds the tile's queries as floats.
template <bool kPairs>
void attend_step(const TileStep& step, const float* q, std::int64_t dim, float scale, float* s) {
  const std::int64_t rows = (step.tile->rows + kRows - 1) / kRows * kRows, row_bytes = dim * (kPairs ? 2 : 4);
  scores<kPairs>(q, rows, {step.k, row_bytes, step.rows, step.blocks}, dim, s, kScoreStride);
  softmax(step, s, scale, dim);
  accumulate<kPairs>(s, rows, {step.v, row_bytes, step.rows, step.blocks}, dim, step.tile->o.as<float>());
}

void attend_f32(std::span<const TileStep> steps, std::int64_t dim, float scale, float* s) {
  for (const TileStep& step : steps) attend_step<false>(step, step.tile->q.as<float>(), dim, scale, s);
}
void attend_bf16(std::span<const TileStep> steps, std::int64_t dim, float scale, float* s) {
  HWY_ALIGN float wide[kTileQueries * kMaxHeadDim];
  for (const TileStep& step : steps) {
    widen(step.tile->q.as<BF16>(), kTileQueries * dim, wide);
    attend_step<true>(step, wide, dim, scale, s);
  }
}

template <class Y>
void write_all_rows(const QueryTile& tile, std::int64_t padded_dim, std::int64_t dim, Y* const* out) {
  const F d;
  for (std::int64_t row = 0; row < tile.rows; ++row) {
    auto lanes_sum = hn::LoadU(d, tile.sums[row]);
    for (std::size_t i = hn::Lanes(d); i < kSumLanes; i += hn::Lanes(d)) {
      lanes_sum = hn::Add(lanes_sum, hn::LoadU(d, tile.sums[row] + i));
    }
    const float sum = hn::GetLane(hn::SumOfLanes(d, lanes_sum));
    const auto inverse = hn::Set(d, sum == 0 ? 0.0f : 1.0f / sum);
    const float* o = tile.o.as<float>() + row * padded_dim;
    for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
      store(hn::Mul(load(d, o + i, lanes), inverse), d, out[row] + i, lanes);
    });
  }
}
void write_rows_f32(const QueryTile& tile, std::int64_t padded_dim, std::int64_t dim, float* const* out) {
  write_all_rows(tile, padded_dim, dim, out);
}
void write_rows_bf16(const QueryTile& tile, std::int64_t padded_dim, std::int64_t dim, BF16* const* out) {
  write_all_rows(tile, padded_dim, dim, out);
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {
HWY_EXPORT(scores_f32);
HWY_EXPORT(scores_bf16);
HWY_EXPORT(attend_f32);
HWY_EXPORT(attend_bf16);
HWY_EXPORT(write_rows_f32);
HWY_EXPORT(write_rows_bf16);
namespace {
constexpr TileKernels kF32{"portable",
                           DType::kF32,
                           1,
                           [](auto... a) {
                             HWY_DYNAMIC_DISPATCH(attend_f32)
                             (a...);
                           },
                           [](auto... a) {
                             HWY_DYNAMIC_DISPATCH(scores_f32)
                             (a...);
                           },
                           nullptr,
                           nullptr};
constexpr TileKernels kBf16{"portable",
                            DType::kBF16,
                            1,
                            [](auto... a) {
                              HWY_DYNAMIC_DISPATCH(attend_bf16)
                              (a...);
                            },
                            [](auto... a) {
                              HWY_DYNAMIC_DISPATCH(scores_bf16)
                              (a...);
                            },
                            nullptr,
                            nullptr};
}  // namespace

void write_rows(const QueryTile& tile, std::int64_t padded_dim, std::int64_t dim, float* const* out) {
  HWY_DYNAMIC_DISPATCH(write_rows_f32)(tile, padded_dim, dim, out);
}
void write_rows(const QueryTile& tile, std::int64_t padded_dim, std::int64_t dim, BF16* const* out) {
  HWY_DYNAMIC_DISPATCH(write_rows_bf16)(tile, padded_dim, dim, out);
}

const TileKernels& portable_f32_tile_kernels() { return kF32; }
const TileKernels& portable_bf16_tile_kernels() { return kBf16; }

const TileKernels& choose_tile_kernels(DType dtype, std::int64_t head_dim) {
  if (dtype == DType::kF32) return kF32;
  for (const TileKernels* kernels : {amx_tile_kernels(), avx512_bf16_tile_kernels()}) {
    if (kernels != nullptr && head_dim % kernels->dim_multiple == 0) return *kernels;
  }
  return kBf16;
}

}  // namespace winnow::cpu
#endif
