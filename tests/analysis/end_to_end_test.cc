#include "analysis/end_to_end.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "analysis/attention_analysis.h"
#include "core/error.h"

namespace winnow {
namespace {

// The tiny models of tests/golden, computed exactly: differences are what the blocks left out do.
std::unique_ptr<Engine> tiny(const std::string& name) {
  return Engine::open({.model = std::string(WINNOW_TEST_DATA) + "/models/" + name,
                       .random_weights = "",
                       .precision = Precision::kF32,
                       .threads = 1,
                       .progress = {}});
}

std::vector<TokenId> some_tokens(const Engine& engine, std::int64_t count) {
  std::vector<TokenId> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<TokenId>((i * i * 7 + i * 13 + 5) % engine.arch().vocab));
  return tokens;
}

// The last layer is computed for every row, not only for the last.
PrefillOptions options_with_all_rows() {
  PrefillOptions options;
  options.reserve_tokens = 0;
  options.all_logits = [](std::int64_t, const MatrixView&) {};
  return options;
}

TEST(EndToEnd, NothingExcludedNothingChanges) {
  const auto engine = tiny("tiny-llama.gguf");
  const std::vector<TokenId> tokens = some_tokens(*engine, 70);
  const DenseRun dense(*engine, tokens, {});
  const Drift drift = measure_drift(*engine, dense, exclusion_policy(16, 16, 1e-30f), {});
  EXPECT_EQ(drift.kl.count(), 70);
  EXPECT_EQ(drift.kl_second_half.count(), 35);
  EXPECT_EQ(drift.sparse_ce.count(), 69);
  EXPECT_EQ(drift.density.mean(), 1);
  EXPECT_LT(drift.kl.max(), 1e-9);
  EXPECT_EQ(drift.same_top1.mean(), 1);
  EXPECT_NEAR(drift.dce(), 0, 1e-6);
  EXPECT_LT(drift.logit_error_max, 1e-4);
}

// The engine's own density at the first layers' exact probabilities is the analysis's, and a larger threshold
// drifts further.
TEST(EndToEnd, LargerThresholdsDriftFurther) {
  for (const char* name : {"tiny-llama.gguf", "tiny-gpt2.gguf"}) {
    const auto engine = tiny(name);
    const std::vector<TokenId> tokens = some_tokens(*engine, 100);
    const DenseRun dense(*engine, tokens, {});
    double kl = -1, density = 2;
    for (const float threshold : {0.01f, 0.03f, 0.1f, 0.5f}) {
      const Drift drift = measure_drift(*engine, dense, exclusion_policy(4, 4, threshold), {});
      EXPECT_GE(drift.kl.mean() + 1e-9, kl) << name << threshold;
      EXPECT_LE(drift.density.mean(), density) << name << threshold;
      kl = drift.kl.mean();
      density = drift.density.mean();
    }
    EXPECT_GT(kl, 1e-6) << name;
    EXPECT_LT(density, 0.9) << name;
  }
}

TEST(EndToEnd, DriftsOfPromptsPutTogether) {
  const auto engine = tiny("tiny-llama.gguf");
  const DenseRun dense(*engine, some_tokens(*engine, 40), {});
  const Drift one = measure_drift(*engine, dense, exclusion_policy(4, 4, 0.1f), {});
  Drift sum = one;
  sum.merge(one);
  EXPECT_EQ(sum.kl.count(), 80);
  EXPECT_NEAR(sum.kl.mean(), one.kl.mean(), 1e-12);
  EXPECT_NEAR(sum.dce(), one.dce(), 1e-12);
  EXPECT_EQ(sum.logit_error_max, one.logit_error_max);
}

// (query, key) pairs at or below the diagonal that the engine computes of one head: those of 4 x 4 blocks
// with a weight of at least `threshold`, and every query's own block.
double computed_pairs(const WeightChunk& chunk, float threshold) {
  double pairs = 0;
  for (std::int64_t first = 0; first < chunk.rows; first += 4) {
    for (std::int64_t key = 0; key <= first; key += 4) {
      bool kept = key == first;
      double elements = 0;
      for (std::int64_t row = first; row < std::min(first + 4, chunk.rows); ++row) {
        const std::int64_t begin = std::max(key, chunk.first_key(row));
        for (std::int64_t j = begin; j < std::min(key + 4, row + 1); ++j, ++elements)
          kept = kept || chunk.weights[row * chunk.stride + j] >= threshold;
      }
      pairs += kept ? elements : 0;
    }
  }
  return pairs;
}

// What layer 0 shows the analysis is what the engine chooses its blocks by: the layer's input is the same.
// The last model's layer 0 has a sliding window of 11.
TEST(AttentionAnalysis, SeesTheWeightsTheEngineSelectsBy) {
  for (const char* name : {"tiny-llama.gguf", "tiny-gpt2.gguf", "tiny-qwen2.gguf", "tiny-gemma3.gguf"}) {
    const auto engine = tiny(name);
    const Architecture& arch = engine->arch();
    const std::vector<TokenId> tokens = some_tokens(*engine, 90);
    AttentionAnalysis analysis({.shapes = {{1, 4}, {4, 4}, {16, 8}},
                                .thresholds = {0.02f, 0.1f},
                                .layers = arch.layers,
                                .heads = arch.heads,
                                .tokens = 90},
                               engine->backend());
    double pairs = 0;
    analysis.set_tap([&](std::int64_t layer, std::int64_t, const WeightChunk& chunk) {
      if (layer == 0) pairs += computed_pairs(chunk, 0.1f) / static_cast<double>(arch.heads);
    });
    PrefillOptions options;
    options.reserve_tokens = 0;
    options.observe_attention = [&](const AttentionView& view) { analysis.observe(view); };
    Session session(*engine);
    session.prefill(tokens, Policy{}, options);
    for (std::int64_t layer = 0; layer < arch.layers; ++layer) {
      EXPECT_TRUE(analysis.shares().range(layer).sound());
      EXPECT_EQ(analysis.shares().range(layer).rows, 90 * arch.heads);
      EXPECT_LT(analysis.shares().range(layer).row_sum_error, 1e-5);
    }
    Session sparse(*engine);
    sparse.prefill(tokens, exclusion_policy(4, 4, 0.1f), options_with_all_rows());
    ASSERT_EQ(sparse.block_stats().size(), static_cast<std::size_t>(arch.layers)) << name;
    EXPECT_LT(pairs, 90 * 91 / 2.0) << name;
    EXPECT_NEAR(sparse.block_stats()[0].computed_pairs, pairs, 1e-6) << name;
    // The analysis alone also leaves out what lies on the diagonal.
    const SweepPoint point = analysis.totals().points()[3];
    RunningMean density;
    for (const double head : point.layers[0].head_density) density.add(head);
    EXPECT_LE(density.mean(), sparse.block_stats()[0].density()) << name;
    EXPECT_GT(density.mean(), sparse.block_stats()[0].density() - 23 * 10 / 4095.0) << name;
  }
}

}  // namespace
}  // namespace winnow
