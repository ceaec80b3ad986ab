// Causal attention of the CPU backend, on every variant of its tile kernels.
//
// Promised bit for bit: the same call twice, and any number of threads. The same query among other queries,
// or asked alone, shares tiles with others and may round differently: promised within the tolerance only.
#include "backends/cpu/attention.h"

#include <cmath>

#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

Tolerance tolerance(Precision precision) {
  return precision == Precision::kBF16 ? kAttentionBf16 : kAttentionF32;
}

// Cache rows 0..rows-1 in both backends, and queries at some of them.
class Problem {
 public:
  Problem(Precision precision, const HeadShape& shape, std::int64_t rows,
          std::vector<std::int64_t> query_rows)
      : precision_(precision),
        shape_(shape),
        query_rows_(std::move(query_rows)),
        cpu_(make_cpu_backend(precision, 1)),
        reference_(make_reference_backend(precision)),
        cache_(*cpu_, shape, rows),
        reference_cache_(*reference_, shape, rows),
        q_(random_queries(3.0f)) {}

  // Larger queries make sharper distributions.
  TestMatrix random_queries(float deviation) {
    const auto count = static_cast<std::int64_t>(query_rows_.size());
    return {*cpu_, cpu_->compute_dtype(), count, shape_.q_cols(),
            random_floats(count * shape_.q_cols(), 5, deviation)};
  }
  void set_queries(float deviation) { q_ = random_queries(deviation); }
  void set_tolerance(Tolerance allowed) { tolerance_ = allowed; }

  TestMatrix expected() {
    return run([&](const AttentionParams& p) { reference_->attention(p); }, reference_cache_.kv);
  }
  TestMatrix actual(const cpu::TileKernels& kernels, int threads) {
    return run([&](const AttentionParams& p) { cpu::attention(p, kernels, threads); }, cache_.kv);
  }

  void compare() {
    SCOPED_TRACE(::testing::Message() << ::testing::PrintToString(shape_) << ", cache rows " << cache_.kv.rows
                                      << ", queries " << query_rows_.size() << ", " << name(precision_));
    const TestMatrix correct = expected();
    for (const cpu::TileKernels* kernels : tile_kernel_variants(precision_, shape_.head_dim)) {
      SCOPED_TRACE(kernels->name);
      const TestMatrix out = actual(*kernels, 1);
      expect_close(out, correct, tolerance_);
      for (const int threads : {2, 3}) {
        EXPECT_TRUE(out.same_bits(actual(*kernels, threads))) << threads << " threads gave other bits than 1";
      }
    }
  }

  // The portable kernels once for every SIMD target.
  void compare_on_all_targets() {
    const TestMatrix correct = expected();
    const auto& kernels =
        precision_ == Precision::kF32 ? cpu::portable_f32_tile_kernels() : cpu::portable_bf16_tile_kernels();
    for_each_target([&] { expect_close(actual(kernels, 1), correct, tolerance_); });
  }

 private:
  template <class Attend>
  TestMatrix run(Attend attend, const LayerKv& kv) {
    TestMatrix out(*cpu_, cpu_->compute_dtype(), q_.view().rows, shape_.q_cols());
    attend(AttentionParams{.q = q_.view(),
                           .query_rows = query_rows_,
                           .kv = &kv,
                           .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                           .out = out.view()});
    return out;
  }

  Precision precision_;
  HeadShape shape_;
  std::vector<std::int64_t> query_rows_;
  std::unique_ptr<Backend> cpu_, reference_;
  FilledCache cache_, reference_cache_;
  TestMatrix q_;
  Tolerance tolerance_ = tolerance(precision_);
};

std::vector<std::int64_t> tail(std::int64_t rows, std::int64_t count) {
  std::vector<std::int64_t> result(static_cast<std::size_t>(std::min(rows, count)));
  std::iota(result.begin(), result.end(), rows - static_cast<std::int64_t>(result.size()));
  return result;
}

class Attention : public ::testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Attention, ::testing::ValuesIn(kPrecisions),
                         [](const auto& param_info) { return std::string(name(param_info.param)); });

TEST_P(Attention, EveryNumberOfRowsUpTo70) {
  for (std::int64_t rows = 1; rows <= 70; ++rows) {
    Problem(GetParam(), {3, 1, 64}, rows, tail(rows, rows)).compare();
    Problem(GetParam(), {2, 1, 20}, rows, with_gaps(rows)).compare();
    Problem(GetParam(), {9, 3, 32}, rows, {rows - 1}).compare();
  }
}

TEST_P(Attention, EveryHeadShape) {
  for (const std::int64_t head_dim : {1, 7, 8, 16, 20, 32, 64, 80, 128}) {
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {2, 1}, {9, 1}, {9, 3}, {3, 3}}) {
      const HeadShape shape{heads, kv_heads, head_dim};
      Problem(GetParam(), shape, 67, tail(67, 67)).compare();
      Problem(GetParam(), shape, 67, with_gaps(67)).compare();
      Problem(GetParam(), shape, 67, {66}).compare();
      Problem(GetParam(), shape, 67, {0}).compare();
    }
  }
}

TEST_P(Attention, LongCaches) {
  for (const std::int64_t rows : {128, 129, 257, 600}) {
    for (const std::int64_t head_dim : {20, 64, 128}) {
      const HeadShape shape{3, 1, head_dim};
      Problem(GetParam(), shape, rows, tail(rows, 65)).compare();
      Problem(GetParam(), shape, rows, with_gaps(rows)).compare();
      Problem(GetParam(), shape, rows, {rows - 1}).compare();
    }
  }
  Problem(GetParam(), {3, 3, 64}, 600, tail(600, 600)).compare();  // several tiles and tasks per head
}

TEST_P(Attention, PortableKernelsOnEveryTarget) {
  for (const std::int64_t head_dim : {1, 7, 8, 16, 20, 32, 64, 80, 128}) {
    SCOPED_TRACE(head_dim);
    Problem(GetParam(), {9, 3, head_dim}, 141, with_gaps(141)).compare_on_all_targets();
    Problem(GetParam(), {2, 1, head_dim}, 33, tail(33, 33)).compare_on_all_targets();
  }
}

// Scores of some hundred: exp must not overflow, and the maximum moves a long way from block to block.
TEST_P(Attention, SharpDistributions) {
  for (const std::int64_t rows : {33, 300}) {
    Problem problem(GetParam(), {3, 1, 64}, rows, tail(rows, rows));
    problem.set_queries(100.0f);
    if (GetParam() == Precision::kF32) problem.set_tolerance(kSharpAttentionF32);
    problem.compare();
  }
}

TEST_P(Attention, NearlyUniformDistributions) {
  Problem problem(GetParam(), {3, 1, 64}, 300, tail(300, 300));
  problem.set_queries(0.0f);
  problem.compare();
}

TEST_P(Attention, TheSameCallTwiceGivesTheSameBits) {
  Problem problem(GetParam(), {9, 3, 64}, 257, tail(257, 100));
  for (const cpu::TileKernels* kernels : tile_kernel_variants(GetParam(), 64)) {
    EXPECT_TRUE(problem.actual(*kernels, 2).same_bits(problem.actual(*kernels, 2))) << kernels->name;
  }
}

TEST_P(Attention, AQueryDoesNotDependOnTheOthersBeyondRounding) {
  constexpr std::int64_t kRows = 200;
  const HeadShape shape{3, 1, 64};
  const auto cpu = make_cpu_backend(GetParam(), 2);
  const FilledCache cache(*cpu, shape, kRows);
  const std::vector<std::int64_t> rows = tail(kRows, kRows);
  const TestMatrix q(*cpu, cpu->compute_dtype(), kRows, shape.q_cols(),
                     random_floats(kRows * shape.q_cols(), 5));
  const TestMatrix all(*cpu, cpu->compute_dtype(), kRows, shape.q_cols());
  const TestMatrix single(*cpu, cpu->compute_dtype(), kRows, shape.q_cols());
  cpu->attention({.q = q.view(), .query_rows = rows, .kv = &cache.kv, .scale = 0.125f, .out = all.view()});
  for (std::int64_t row = 0; row < kRows; ++row) {
    cpu->attention({.q = q.view().slice(row, 1),
                    .query_rows = std::span(rows).subspan(row, 1),
                    .kv = &cache.kv,
                    .scale = 0.125f,
                    .out = single.view().slice(row, 1)});
  }
  expect_close(single, all, tolerance(GetParam()));
}

TEST_P(Attention, NoQueriesAreNoWork) { Problem(GetParam(), {3, 1, 64}, 5, {}).compare(); }

// What a model does: prefill, then one row at a time, with rotation.
TEST_P(Attention, DecodingAfterPrefillAgreesWithTheReference) {
  constexpr std::int64_t kPrompt = 37, kTotal = 70;
  const HeadShape shape{9, 3, 64};
  const auto cpu = make_cpu_backend(GetParam(), 2), reference = make_reference_backend(GetParam());
  const RopeTable rope = make_rope(*cpu, kTotal, 64);
  LayerKv kv = make_kv(*cpu, shape, kTotal), expected_kv = make_kv(*reference, shape, kTotal);
  const std::vector<float> qkv = random_floats(kTotal * shape.qkv_cols(), 3);
  for (std::int64_t begin = 0, end = kPrompt; begin < kTotal; begin = end++) {
    const std::span<const float> rows(qkv.data() + begin * shape.qkv_cols(),
                                      (end - begin) * shape.qkv_cols());
    const auto position = static_cast<std::int32_t>(begin);
    const TestMatrix q = append(*cpu, kv, rope, shape, rows, position);
    const TestMatrix expected_q = append(*reference, expected_kv, rope, shape, rows, position);
    const TestMatrix out(*cpu, cpu->compute_dtype(), end - begin, shape.q_cols());
    const TestMatrix expected(*cpu, cpu->compute_dtype(), end - begin, shape.q_cols());
    const std::vector<std::int64_t> query_rows = tail(end, end - begin);
    cpu->attention({.q = q.view(), .query_rows = query_rows, .kv = &kv, .scale = 0.125f, .out = out.view()});
    reference->attention({.q = expected_q.view(),
                          .query_rows = query_rows,
                          .kv = &expected_kv,
                          .scale = 0.125f,
                          .out = expected.view()});
    expect_close(out, expected, tolerance(GetParam()));
  }
}

}  // namespace
}  // namespace winnow::testing
