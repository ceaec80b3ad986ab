// The oracle against closed forms and known values.
#include <cmath>

#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

constexpr Tolerance kTight = {1e-6, 1e-6};

class Reference : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = make_reference_backend(Precision::kF32);

  TestMatrix matrix(std::int64_t rows, std::int64_t cols, std::span<const float> values) {
    return {*backend_, DType::kF32, rows, cols, values};
  }
  TestMatrix empty(std::int64_t rows, std::int64_t cols) { return {*backend_, DType::kF32, rows, cols}; }

  std::vector<float> normed(NormKind kind, std::vector<float> x, const float* bias = nullptr,
                            float epsilon = 0.0f) {
    const auto dim = static_cast<std::int64_t>(x.size());
    const std::vector<float> weight(x.size(), 2.0f);
    const TestMatrix in = matrix(1, dim, x), out = empty(1, dim);
    backend_->norm({.kind = kind,
                    .x = in.view(),
                    .weight = weight.data(),
                    .bias = bias,
                    .epsilon = epsilon,
                    .y = out.view()});
    return out.floats();
  }

  std::vector<float> activated(ActivationKind kind, std::vector<float> x) {
    const auto dim = static_cast<std::int64_t>(x.size()) / (kind == ActivationKind::kSiluGated ? 2 : 1);
    const TestMatrix in = matrix(1, static_cast<std::int64_t>(x.size()), x), out = empty(1, dim);
    backend_->activation({.kind = kind, .x = in.view(), .y = out.view()});
    return out.floats();
  }

  // The head rotated to `position`.
  std::vector<float> rotated(const std::vector<float>& head, std::int32_t position, std::int64_t rotary_dim) {
    const HeadShape shape{1, 1, static_cast<std::int64_t>(head.size())};
    const RopeTable rope = make_rope(*backend_, 128, rotary_dim);
    LayerKv kv = make_kv(*backend_, shape, 1);
    std::vector<float> qkv(head);
    qkv.resize(3 * head.size());
    return append(*backend_, kv, rope, shape, qkv, position).floats();
  }
};

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

TEST_F(Reference, RmsNormOfAConstantIsTheWeight) {
  expect_close(normed(NormKind::kRms, {3.0f, 3.0f, 3.0f}), std::vector<float>{2.0f, 2.0f, 2.0f}, kTight);
  expect_close(normed(NormKind::kRms, {3.0f, -4.0f}), std::vector<float>{1.697056f, -2.262742f}, kTight);
}

TEST_F(Reference, LayerNormUsesTheBiasedVariance) {
  const float bias[] = {10.0f, 20.0f, 30.0f, 40.0f};
  const float r = 2.0f / std::sqrt(1.25f);
  expect_close(normed(NormKind::kLayer, {1.0f, 2.0f, 3.0f, 4.0f}, bias),
               std::vector<float>{10.0f - 1.5f * r, 20.0f - 0.5f * r, 30.0f + 0.5f * r, 40.0f + 1.5f * r},
               kTight);
}

TEST_F(Reference, LayerNormOfAConstantIsTheBias) {
  const float bias[] = {1.0f, -1.0f, 0.5f};
  EXPECT_EQ(normed(NormKind::kLayer, {5.0f, 5.0f, 5.0f}, bias, 1e-5f),
            (std::vector<float>{1.0f, -1.0f, 0.5f}));
}

TEST_F(Reference, EpsilonLiesUnderTheRoot) {
  expect_close(normed(NormKind::kRms, {3.0f}, nullptr, 7.0f), std::vector<float>{1.5f}, kTight);
}

TEST_F(Reference, LinearMultipliesByTheTransposedWeightAndAccumulates) {
  const std::vector<float> weight = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};  // [3, 2]
  const auto packed = backend_->pack(3, 2, [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
    std::copy(weight.begin() + begin * 2, weight.begin() + end * 2, out.begin());
  });
  EXPECT_EQ(packed->out_features(), 3);
  EXPECT_EQ(packed->in_features(), 2);
  EXPECT_EQ(packed->bytes(), 24);
  const float bias[] = {0.5f, 0.0f, -0.5f};
  const TestMatrix x = matrix(2, 2, std::vector<float>{1.0f, 10.0f, -1.0f, 0.0f}), y = empty(2, 3);
  LinearParams params{.x = x.view(), .weight = packed.get(), .bias = bias, .y = y.view()};
  backend_->linear(params);
  EXPECT_EQ(y.floats(), (std::vector<float>{21.5f, 43.0f, 64.5f, -0.5f, -3.0f, -5.5f}));
  params.bias = nullptr;
  params.accumulate = true;
  backend_->linear(params);
  EXPECT_EQ(y.floats(), (std::vector<float>{42.5f, 86.0f, 129.5f, -1.5f, -6.0f, -10.5f}));
}

TEST_F(Reference, ActivationsHaveTheirKnownValues) {
  expect_close(activated(ActivationKind::kGeluErf, {0.0f, 1.0f, -1.0f, 2.0f, -3.0f}),
               std::vector<float>{0.0f, 0.8413447f, -0.1586553f, 1.9544997f, -0.00404969f}, kTight);
  expect_close(activated(ActivationKind::kGeluTanh, {0.0f, 1.0f, -1.0f, 2.0f, -3.0f}),
               std::vector<float>{0.0f, 0.8411920f, -0.1588080f, 1.9545977f, -0.00363739f}, kTight);
  expect_close(activated(ActivationKind::kSiluGated, {0.0f, 1.0f, -1.0f, 7.0f, 2.0f, -3.0f}),
               std::vector<float>{0.0f, 2.0f * 0.7310586f, 3.0f * 0.2689414f}, kTight);
}

TEST_F(Reference, RowNormsAreEuclidean) {
  const TestMatrix x = matrix(2, 2, std::vector<float>{3.0f, -4.0f, 0.0f, 0.0f});
  std::vector<float> norms(2);
  backend_->row_norms(x.view(), norms);
  EXPECT_EQ(norms, (std::vector<float>{5.0f, 0.0f}));
}

TEST_F(Reference, RopeAtPositionZeroIsTheIdentity) {
  const std::vector<float> head = random_floats(16, 1);
  EXPECT_EQ(rotated(head, 0, 16), head);
}

TEST_F(Reference, RopePairsAreHalfTheRotaryDimApart) {
  const std::vector<float> y = rotated({1.0f, 0.0f, 0.0f, 0.0f, 5.0f, 6.0f}, 1, 4);
  expect_close(y, std::vector<float>{std::cos(1.0f), 0.0f, std::sin(1.0f), 0.0f, 5.0f, 6.0f}, kTight);
}

TEST_F(Reference, RopePreservesNorms) {
  const std::vector<float> head = random_floats(64, 1);
  const std::vector<float> y = rotated(head, 77, 64);
  EXPECT_NEAR(dot(y, y), dot(head, head), 1e-4);
  for (std::size_t i = 0; i < 32; ++i)
    EXPECT_NEAR(std::hypot(y[i], y[i + 32]), std::hypot(head[i], head[i + 32]), 1e-5);
}

TEST_F(Reference, RopeMakesDotProductsRelative) {
  const std::vector<float> q = random_floats(64, 1), k = random_floats(64, 2);
  const double expected = dot(rotated(q, 12, 64), rotated(k, 5, 64));
  for (const std::int32_t shift : {1, 40, 100}) {
    EXPECT_NEAR(dot(rotated(q, 12 + shift, 64), rotated(k, 5 + shift, 64)), expected, 1e-4);
  }
}

// Appends rows with the given keys and values of one head of dimension 2, and asks with queries q.
struct SmallAttention {
  LayerKv kv;
  RopeTable rope;

  SmallAttention(Backend& backend, const std::vector<float>& keys, const std::vector<float>& values) {
    const HeadShape shape{1, 1, 2};
    const std::int64_t rows = static_cast<std::int64_t>(keys.size()) / 2;
    kv = make_kv(backend, shape, rows);
    std::vector<float> qkv;
    for (std::int64_t r = 0; r < rows; ++r) {
      qkv.insert(qkv.end(), {0.0f, 0.0f, keys[2 * r], keys[2 * r + 1], values[2 * r], values[2 * r + 1]});
    }
    append(backend, kv, rope, shape, qkv, 0);
  }
};

TEST_F(Reference, AttentionOverEqualKeysIsTheCausalMeanOfTheValues) {
  const SmallAttention cache(*backend_, {1, 2, 1, 2, 1, 2}, {3, 0, 6, 30, 9, 60});
  const TestMatrix q = matrix(3, 2, random_floats(6, 1)), out = empty(3, 2);
  const std::int64_t rows[] = {0, 1, 2};
  backend_->attention({.q = q.view(), .query_rows = rows, .kv = &cache.kv, .scale = 1.0f, .out = out.view()});
  expect_close(out.floats(), std::vector<float>{3, 0, 4.5f, 15, 6, 30}, kTight);
}

TEST_F(Reference, AttentionIsTheSoftmaxOfScaledScores) {
  const SmallAttention cache(*backend_, {0, 0, 2, 0}, {1, 0, 0, 1});
  const TestMatrix q = matrix(1, 2, std::vector<float>{1.0f, 9.0f}), out = empty(1, 2);
  const std::int64_t rows[] = {1};
  backend_->attention({.q = q.view(), .query_rows = rows, .kv = &cache.kv, .scale = 0.5f, .out = out.view()});
  expect_close(out.floats(), std::vector<float>{0.2689414f, 0.7310586f}, kTight);
}

TEST_F(Reference, AttentionGroupsHeadsOverKvHeads) {
  const HeadShape shape{4, 2, 1};
  LayerKv kv = make_kv(*backend_, shape, 1);
  const RopeTable rope;
  append(*backend_, kv, rope, shape, std::vector<float>{0, 0, 0, 0, 1, 1, 10, 20}, 0);
  const TestMatrix q = matrix(1, 4, random_floats(4, 1)), out = empty(1, 4);
  const std::int64_t rows[] = {0};
  backend_->attention({.q = q.view(), .query_rows = rows, .kv = &kv, .out = out.view()});
  EXPECT_EQ(out.floats(), (std::vector<float>{10, 10, 20, 20}));
}

TEST_F(Reference, WindowScoresOfEqualKeysAreUniformAndCausal) {
  const SmallAttention cache(*backend_, {1, 2, 1, 2, 1, 2}, {0, 0, 0, 0, 0, 0});
  const TestMatrix q = matrix(2, 2, random_floats(4, 1));
  std::vector<float> scores(3);
  backend_->window_scores({.q = q.view(), .kv = &cache.kv, .scores = scores});
  // The query at row 1 gives 1/2, 1/2; the one at row 2 gives 1/3 three times.
  expect_close(scores, std::vector<float>{5.0f / 12, 5.0f / 12, 1.0f / 6}, kTight);
}

TEST_F(Reference, WindowScoresReduceOverHeadsAfterTheMeanOverQueries) {
  const HeadShape shape{2, 1, 1};
  LayerKv kv = make_kv(*backend_, shape, 2);
  const RopeTable rope;
  append(*backend_, kv, rope, shape, std::vector<float>{0, 0, 0, 0, 0, 0, 1, 0}, 0);  // keys 0 and 1
  const TestMatrix q = matrix(1, 2, std::vector<float>{1.0f, -1.0f});
  std::vector<float> scores(2);
  WindowScoresParams params{.q = q.view(), .kv = &kv, .reduction = HeadReduction::kMax, .scores = scores};
  backend_->window_scores(params);
  expect_close(scores, std::vector<float>{0.7310586f, 0.7310586f}, kTight);
  params.reduction = HeadReduction::kMean;
  backend_->window_scores(params);
  expect_close(scores, std::vector<float>{0.5f, 0.5f}, kTight);
}

TEST_F(Reference, WindowScoresOfChosenHeadsAndTheMaximumOverQueries) {
  const HeadShape shape{2, 1, 1};
  LayerKv kv = make_kv(*backend_, shape, 2);
  const RopeTable rope;
  append(*backend_, kv, rope, shape, std::vector<float>{0, 0, 0, 0, 0, 0, 1, 0}, 0);  // keys 0 and 1
  const TestMatrix q = matrix(2, 2, std::vector<float>{0.0f, 5.0f, 1.0f, -1.0f});
  const std::int32_t second[] = {1}, both[] = {1, 0};
  std::vector<float> scores(2), each(4);
  WindowScoresParams params{
      .q = q.view(), .kv = &kv, .heads = second, .queries = QueryReduction::kMax, .scores = scores};
  backend_->window_scores(params);  // the query at row 0 sees that row alone
  expect_close(scores, std::vector<float>{1.0f, 0.2689414f}, kTight);
  params.queries = QueryReduction::kMean;
  params.heads = both;
  params.per_head = true;
  params.scores = each;
  backend_->window_scores(params);
  expect_close(each, std::vector<float>{0.8655293f, 0.1344707f, 0.6344707f, 0.3655293f}, kTight);
}

TEST(ReferenceBf16, RoundsWeightsCachesAndOutputsOnStore) {
  const auto backend = make_reference_backend(Precision::kBF16);
  EXPECT_EQ(backend->compute_dtype(), DType::kBF16);
  const float third = 1.0f / 3.0f;
  const auto weight = backend->pack(1, 1, [&](auto, auto, std::span<float> out) { out[0] = third; });
  EXPECT_EQ(weight->bytes(), 2);
  const TestMatrix x(*backend, DType::kBF16, 1, 1, std::vector<float>{1.0f});
  const TestMatrix y(*backend, DType::kF32, 1, 1), y_bf16(*backend, DType::kBF16, 1, 1);
  backend->linear({.x = x.view(), .weight = weight.get(), .y = y.view()});
  EXPECT_EQ(y.floats()[0], to_float(to_bf16(third)));
  const float bias[] = {0x1p-12f};
  backend->linear({.x = x.view(), .weight = weight.get(), .bias = bias, .y = y_bf16.view()});
  EXPECT_EQ(y_bf16.floats()[0], to_float(to_bf16(to_float(to_bf16(third)) + bias[0])));
}

}  // namespace
}  // namespace winnow::testing
