// Scorers that need no file, on both backends.
#include "sparsity/scorer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "sparsity/token_pruner.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

constexpr std::int64_t kModelDim = 8;

TokenPolicy policy_with(ScorerKind scorer) {
  TokenPolicy policy;
  policy.scorer = scorer;
  policy.pool = 1;
  return policy;
}

std::vector<std::unique_ptr<Backend>> all_backends() {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const Precision precision : kPrecisions) {
    backends.push_back(make_reference_backend(precision));
    backends.push_back(make_cpu_backend(precision, 2));
  }
  return backends;
}

std::vector<std::int32_t> positions(std::int64_t tokens, std::int32_t first = 0) {
  std::vector<std::int32_t> result(static_cast<std::size_t>(tokens));
  std::iota(result.begin(), result.end(), first);
  return result;
}

std::vector<float> score(Scorer& scorer, const ScorerInput& input, std::int64_t tokens) {
  std::vector<float> scores(static_cast<std::size_t>(tokens), -1.0f);
  scorer.score(input, scores);
  return scores;
}

// A cache filled in two turns; `q` are the queries of the second. One kv head, two heads, dimension 2; no
// rotation.
class TwoTurns {
 public:
  static constexpr HeadShape kShape{2, 1, 2};

  TwoTurns(Backend& backend, std::int64_t earlier, std::int64_t tokens)
      : rows_(random_floats((earlier + tokens) * kShape.qkv_cols(), 3)),
        kv_(make_kv(backend, kShape, earlier + tokens)) {
    for (float& value : rows_) value = to_float(to_bf16(value));  // the same in both precisions
    const std::span<const float> all(rows_);
    const auto cut = static_cast<std::size_t>(earlier * kShape.qkv_cols());
    if (earlier > 0) append(backend, kv_, rope_, kShape, all.first(cut), 0);
    q_ = std::make_unique<TestMatrix>(
        append(backend, kv_, rope_, kShape, all.subspan(cut), static_cast<std::int32_t>(earlier)));
    positions_ = positions(tokens, static_cast<std::int32_t>(earlier));
  }

  ScorerInput input() const {
    return {.layer = 4,
            .positions = positions_,
            .kv = &kv_,
            .q = q_->view(),
            .attention_scale = kScale,
            .hidden = {}};
  }

  // The definition: mean over the window's queries of softmax(q k scale), max or mean over the heads.
  std::vector<float> expected(std::int64_t tokens, std::int64_t window, HeadReduction reduction) const {
    const std::int64_t rows = kv_.rows;
    std::vector<double> scores(static_cast<std::size_t>(rows), 0.0);
    for (std::int64_t head = 0; head < kShape.heads; ++head) {
      std::vector<double> paid(static_cast<std::size_t>(rows), 0.0);
      for (std::int64_t query = rows - window; query < rows; ++query) add_softmax(head, query, paid);
      for (std::int64_t j = 0; j < rows; ++j) {
        const double mean = paid[j] / static_cast<double>(window);
        scores[j] = reduction == HeadReduction::kMax ? std::max(scores[j], mean) : scores[j] + mean / 2.0;
      }
    }
    return {scores.end() - tokens, scores.end()};
  }

 private:
  static constexpr float kScale = 0.75f;

  void add_softmax(std::int64_t head, std::int64_t query, std::vector<double>& paid) const {
    std::vector<double> weights;
    for (std::int64_t key = 0; key <= query; ++key) {
      const float* q = &rows_[query * kShape.qkv_cols() + head * 2];
      const float* k = &rows_[key * kShape.qkv_cols() + 4];
      weights.push_back(std::exp(double{kScale} * (double{q[0]} * k[0] + double{q[1]} * k[1])));
    }
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (std::size_t key = 0; key < weights.size(); ++key) paid[key] += weights[key] / sum;
  }

  std::vector<float> rows_;  // [earlier + tokens, q (2 heads) | k | v]
  RopeTable rope_;
  LayerKv kv_;
  std::unique_ptr<TestMatrix> q_;
  std::vector<std::int32_t> positions_;
};

TEST(AttentionScorer, IsTheSoftmaxOfTheLastQueries) {
  for (const auto& backend : all_backends()) {
    for (const std::int64_t earlier : {0, 5}) {
      for (const std::int64_t window : {1, 3, 64}) {  // 64: more than there are tokens
        for (const HeadReduction heads : {HeadReduction::kMax, HeadReduction::kMean}) {
          SCOPED_TRACE(backend->description() + " " + std::to_string(earlier) + " " + std::to_string(window));
          const TwoTurns turns(*backend, earlier, 7);
          TokenPolicy policy = policy_with(ScorerKind::kAttention);
          policy.window = window;
          policy.heads = heads;
          const auto scorer = make_scorer(policy, kModelDim, *backend);
          EXPECT_FALSE(scorer->needs_hidden());
          expect_close(score(*scorer, turns.input(), 7),
                       turns.expected(7, std::min<std::int64_t>(window, 7), heads), kWindowScores);
        }
      }
    }
  }
}

TEST(AttentionScorer, PoolsThisTurnsTokensOnly) {
  const auto backend = make_reference_backend(Precision::kF32);
  const TwoTurns turns(*backend, 5, 7);
  TokenPolicy policy = policy_with(ScorerKind::kAttention);
  std::vector<float> expected = score(*make_scorer(policy, kModelDim, *backend), turns.input(), 7);
  max_pool(expected, 3);
  policy.pool = 3;
  EXPECT_EQ(score(*make_scorer(policy, kModelDim, *backend), turns.input(), 7), expected);
}

// [head][7] what the last queries of one head pay, pooled over 3, over its highest score among tokens 1..4.
std::vector<std::vector<float>> scaled_heads(Backend& backend, const TwoTurns& turns) {
  const ScorerInput input = turns.input();
  const auto rows = static_cast<std::size_t>(input.kv->rows);
  std::vector<std::vector<float>> result;
  for (const std::int32_t head : {0, 1}) {
    std::vector<float> all(rows);
    backend.window_scores({.q = input.q.slice(4, 3),
                           .kv = input.kv,
                           .scale = input.attention_scale,
                           .heads = std::span(&head, 1),
                           .queries = QueryReduction::kMax,
                           .scores = all});
    std::vector<float> own(all.end() - 7, all.end());
    max_pool(own, 3);
    const float highest = *std::max_element(own.begin() + 1, own.begin() + 5);
    for (float& score : own) score /= highest;
    result.push_back(own);
  }
  return result;
}

TEST(HeadScorer, AsksTheStagesHeadsAndKeepsWhatEarlierLayersSaid) {
  for (const auto& backend : all_backends()) {
    SCOPED_TRACE(backend->description());
    const TwoTurns turns(*backend, 5, 7);
    TokenPolicy policy = policy_with(ScorerKind::kAttention);
    policy.queries = QueryReduction::kMax;
    policy.window = 3;
    policy.pool = 3;
    policy.protect_head = 1;
    policy.protect_tail_min = 2;
    policy.protect_tail_share = 0.0;
    policy.stages = {{.layer = 4, .heads = {{3, 1}}}, {.layer = 6, .heads = {{5, 0}, {3, 1}}}, {.layer = 9}};
    const auto scorer = make_scorer(policy, kModelDim, *backend);
    EXPECT_FALSE(scorer->needs_hidden());
    for (std::int64_t layer = 0; layer < 10; ++layer)
      EXPECT_EQ(scorer->watches(layer), layer == 3 || layer == 5) << layer;

    const auto heads = scaled_heads(*backend, turns);
    scorer->watch(3, turns.input());
    EXPECT_EQ(score(*scorer, turns.input(), 7), heads[1]);

    // Two tokens have gone; the later layer is shown the others only, whose queries are the last ones.
    ScorerInput later = turns.input();
    const auto left = std::span(later.positions).last(5);
    later.positions = left;
    later.q = later.q.slice(2, 5);
    later.layer = 6;
    scorer->watch(5, later);
    const std::vector<float> found = score(*scorer, later, 5);
    for (std::size_t i = 0; i < 5; ++i) EXPECT_GE(found[i], heads[1][i + 2]) << "kept from layer 3";
    EXPECT_NE(found, std::vector<float>(heads[1].begin() + 2, heads[1].end()));

    ScorerInput last = turns.input();
    last.layer = 9;
    TokenPolicy plain = policy;
    plain.stages.clear();
    EXPECT_EQ(score(*scorer, last, 7), score(*make_scorer(plain, kModelDim, *backend), last, 7))
        << "a stage without heads asks them all";
  }
}

TEST(HeadScorer, OneHeadsNanIsNotLostAmongOthers) {
  for (const auto& backend : all_backends()) {
    SCOPED_TRACE(backend->description());
    const TwoTurns turns(*backend, 5, 7);
    for (const std::size_t broken : {0, 1}) {
      std::vector<float> queries = random_floats(7 * TwoTurns::kShape.q_cols(), 4);
      queries[6 * TwoTurns::kShape.q_cols() + broken * 2] = NAN;  // the last query of this head
      const TestMatrix q(*backend, backend->compute_dtype(), 7, TwoTurns::kShape.q_cols(), queries);
      for (const std::int64_t first : {0, 1}) {
        TokenPolicy policy = policy_with(ScorerKind::kAttention);
        policy.stages = {
            {.layer = 4,
             .heads = {{3, static_cast<std::int32_t>(first)}, {3, static_cast<std::int32_t>(1 - first)}}}};
        const auto scorer = make_scorer(policy, kModelDim, *backend);
        ScorerInput input = turns.input();
        input.q = q.view();
        scorer->watch(3, input);
        const std::vector<float> found = score(*scorer, input, 7);
        EXPECT_TRUE(degenerate(found)) << "head " << broken << " is broken, head " << first << " asked first";
      }
    }
  }
}

TEST(RecencyScorer, LaterIsHigher) {
  const auto backend = make_reference_backend(Precision::kF32);
  const auto scorer = make_scorer(policy_with(ScorerKind::kRecency), kModelDim, *backend);
  EXPECT_FALSE(scorer->needs_hidden());
  EXPECT_EQ(score(*scorer, {}, 4), (std::vector<float>{0.25f, 0.5f, 0.75f, 1.0f}));
  const std::vector<float> scores = score(*scorer, {}, 100'000);
  EXPECT_EQ(std::adjacent_find(scores.begin(), scores.end(), std::greater_equal<>()), scores.end());
}

TEST(RandomScorer, DependsOnSeedLayerAndPositionOnly) {
  const auto backend = make_reference_backend(Precision::kF32);
  TokenPolicy policy = policy_with(ScorerKind::kRandom);
  const auto all = positions(1000);
  const auto run = [&](std::uint64_t seed, std::int64_t layer, std::span<const std::int32_t> places) {
    policy.seed = seed;
    const auto scorer = make_scorer(policy, kModelDim, *backend);
    EXPECT_FALSE(scorer->needs_hidden());
    ScorerInput input;
    input.layer = layer;
    input.positions = places;
    return score(*scorer, input, static_cast<std::int64_t>(places.size()));
  };
  const std::vector<float> scores = run(1, 4, all);
  EXPECT_EQ(run(1, 4, all), scores);
  EXPECT_NE(run(2, 4, all), scores);
  EXPECT_NE(run(1, 7, all), scores);
  const std::vector<float> tail = run(1, 4, std::span(all).subspan(900));
  EXPECT_TRUE(std::equal(tail.begin(), tail.end(), scores.begin() + 900));
  EXPECT_NEAR(std::accumulate(scores.begin(), scores.end(), 0.0) / 1000, 0.5, 0.05);
  EXPECT_GE(*std::min_element(scores.begin(), scores.end()), 0.0f);
  EXPECT_LT(*std::max_element(scores.begin(), scores.end()), 1.0f);
}

TEST(NormScorer, IsTheEuclideanNorm) {
  for (const auto& backend : all_backends()) {
    const TestMatrix hidden(*backend, DType::kF32, 2, 4, std::vector<float>{3, 0, 4, 0, 1, 1, -1, 1});
    const auto scorer = make_scorer(policy_with(ScorerKind::kNorm), 4, *backend);
    EXPECT_TRUE(scorer->needs_hidden());
    ScorerInput input;
    input.hidden = hidden.view();
    expect_close(score(*scorer, input, 2), std::vector<float>{5, 2}, kRowNorm);
  }
}

TEST(RecencyMix, IsTheLastStepOfAnyScorer) {
  const auto backend = make_reference_backend(Precision::kF32);
  const TestMatrix hidden(*backend, DType::kF32, 4, 1, std::vector<float>{4, -3, 2, 1});
  TokenPolicy policy = policy_with(ScorerKind::kNorm);
  policy.recency_mix = 0.4;
  const auto scorer = make_scorer(policy, 1, *backend);
  EXPECT_TRUE(scorer->needs_hidden());
  ScorerInput input;
  input.hidden = hidden.view();
  std::vector<float> expected = {4, 3, 2, 1};
  mix_recency(expected, 0.4);
  EXPECT_EQ(score(*scorer, input, 4), expected);
  policy.scorer = ScorerKind::kRecency;
  EXPECT_FALSE(make_scorer(policy, 1, *backend)->needs_hidden());
}

}  // namespace
}  // namespace winnow::testing
