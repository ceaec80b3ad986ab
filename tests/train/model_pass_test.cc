// Gradients through whole models against PyTorch (scripts/make_gradient_golden.py), for every family.
#include "train/model_pass.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "runtime/session.h"
#include "support/golden_tensors.h"
#include "train/sensitivities.h"

namespace winnow {
namespace {

std::unique_ptr<Engine> open(const std::string& name, Precision precision = Precision::kF32) {
  EngineOptions options;
  options.model = WINNOW_TEST_DATA "/models/" + name;
  options.precision = precision;
  options.threads = 2;
  return Engine::open(options);
}

struct Gradients {
  double loss = 0;
  std::vector<float> saliency, hidden0, attention;
};

Gradients gradients_of(const Engine& engine, std::span<const TokenId> tokens, std::int64_t keep_bytes) {
  ModelPass pass(engine, true, keep_bytes);
  const auto rows = static_cast<std::int64_t>(tokens.size());
  const Architecture& arch = engine.arch();
  Gradients found;
  found.saliency.resize(static_cast<std::size_t>(arch.layers * rows));
  found.attention.resize(static_cast<std::size_t>(arch.layers * arch.heads));
  pass.forward(tokens, {});
  found.loss = pass.loss({});
  ModelPass::BackwardOptions options;
  options.at_input = [&](const LayerView& view) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const float *x = view.value.row<float>(r), *g = view.gradient.row<float>(r);
      found.saliency[view.layer * rows + r] = std::abs(std::inner_product(x, x + arch.model_dim, g, 0.0f));
      if (view.layer == 0) found.hidden0.insert(found.hidden0.end(), g, g + arch.model_dim);
    }
  };
  options.at_attention = [&](const LayerView& view) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < arch.q_dim(); ++i) {
        const float g = view.gradient.row<float>(r)[i];
        found.attention[view.layer * arch.heads + i / arch.head_dim] += g * g;
      }
    }
  };
  pass.backward(options);
  return found;
}

// Within `bound` of the largest value.
void expect_close(std::span<const float> found, std::span<const float> expected, double bound) {
  ASSERT_EQ(found.size(), expected.size());
  float largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  double worst = 0;
  for (std::size_t i = 0; i < found.size(); ++i)
    worst = std::max(worst, static_cast<double>(std::abs(found[i] - expected[i])));
  EXPECT_LT(worst / largest, bound);
}

class GradientGolden : public testing::TestWithParam<const char*> {
 protected:
  void check(Precision precision, std::int64_t keep_bytes, double bound) const {
    const SafetensorsFile golden(WINNOW_TEST_DATA "/gradients/" + std::string(GetParam()) + ".safetensors");
    const auto tokens = read_golden<std::int32_t>(golden, "tokens");
    const auto engine = open(GetParam(), precision);
    const Gradients found = gradients_of(*engine, tokens, keep_bytes);
    EXPECT_NEAR(found.loss, read_golden<float>(golden, "loss")[0], bound * 10);
    expect_close(found.saliency, read_golden<float>(golden, "saliency"), bound);
    expect_close(found.hidden0, read_golden<float>(golden, "hidden0"), bound);
    expect_close(found.attention, read_golden<float>(golden, "attention"), bound);
  }
};

TEST_P(GradientGolden, AgreesWithPyTorch) { check(Precision::kF32, ModelPass::kKeepBytes, 1e-3); }
TEST_P(GradientGolden, AgreesWhenLayersAreComputedAgain) { check(Precision::kF32, 0, 1e-3); }

INSTANTIATE_TEST_SUITE_P(Families, GradientGolden,
                         testing::Values("tiny-llama", "tiny-qwen2", "tiny-gpt2", "tiny-llama3",
                                         "tiny-mistral", "tiny-qwen3", "tiny-stablelm", "tiny-gemma3",
                                         "tiny-dynamic"),
                         [](const auto& family) {
                           std::string name = family.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(ModelPass, TheSameBitsHoweverMuchIsKept) {
  const auto engine = open("tiny-gemma3");
  std::vector<TokenId> tokens(33);
  std::iota(tokens.begin(), tokens.end(), 5);
  const Gradients kept = gradients_of(*engine, tokens, ModelPass::kKeepBytes),
                  again = gradients_of(*engine, tokens, 0);
  EXPECT_EQ(kept.loss, again.loss);
  EXPECT_EQ(kept.saliency, again.saliency);
  EXPECT_EQ(kept.hidden0, again.hidden0);
}

TEST(ModelPass, Bf16ProductsGiveNearlyTheSameGradients) {
  std::vector<TokenId> tokens(40);
  std::iota(tokens.begin(), tokens.end(), 40);
  const Gradients exact = gradients_of(*open("tiny-llama"), tokens, ModelPass::kKeepBytes);
  const Gradients bf16 = gradients_of(*open("tiny-llama", Precision::kBF16), tokens, ModelPass::kKeepBytes);
  EXPECT_NEAR(bf16.loss, exact.loss, 0.03 * exact.loss);
  const auto dot = [](const std::vector<float>& a, const std::vector<float>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  const double norms = std::sqrt(dot(exact.hidden0, exact.hidden0) * dot(bf16.hidden0, bf16.hidden0));
  EXPECT_GT(dot(exact.hidden0, bf16.hidden0) / norms, 0.97);
}

TEST(ModelPass, ComputesWhatASessionComputes) {
  const auto engine = open("tiny-qwen3");
  std::vector<TokenId> tokens(50);
  std::iota(tokens.begin(), tokens.end(), 100);
  std::vector<float> expected;
  Session session(*engine);
  PrefillOptions options;
  options.all_logits = [&](std::int64_t, const MatrixView& logits) {
    expected.insert(expected.end(), logits.row<float>(0), logits.row<float>(0) + logits.rows * logits.cols);
  };
  session.prefill(tokens, Policy{}, options);
  ModelPass pass(*engine, false);
  ModelPass::ForwardOptions forward;
  forward.keep_activations = false;
  pass.forward(tokens, forward);
  std::vector<float> found;
  pass.loss({.keep_logits = &found, .gradient = false});
  expected.resize(found.size());
  expect_close(found, expected, 1e-4);
}

// Dropping by keep = 0 is what pruning does: the tokens behind see the same keys.
TEST(ModelPass, TokensThatDoNotCountAreAsIfPruned) {
  const auto engine = open("tiny-llama");
  std::vector<TokenId> tokens(48);
  std::iota(tokens.begin(), tokens.end(), 30);
  std::vector<float> keep(tokens.size(), 1.0f), scores;
  for (std::size_t i = 4; i < 32; i += 3) keep[i] = 0.0f;
  Policy policy;
  policy.tokens.stages = {{2, 0.8, std::nullopt}};
  policy.tokens.protect_tail_min = 1;
  policy.tokens.protect_tail_share = 0;
  policy.tokens.stages[0].keep = static_cast<double>(std::accumulate(keep.begin(), keep.end(), 0.0f)) / 48.0;
  PrefillOptions options;
  options.stage_scores = [&](std::int64_t, std::span<const std::int32_t> positions, std::span<float> out) {
    for (std::size_t i = 0; i < positions.size(); ++i) out[i] = keep[positions[i]];
  };
  Session session(*engine);
  session.prefill(tokens, policy, options);
  ASSERT_EQ(session.stages().at(0).tokens_kept, std::count(keep.begin(), keep.end(), 1.0f));
  ModelPass pass(*engine, false);
  ModelPass::ForwardOptions forward;
  forward.before_layer = [&](std::int64_t layer, const MatrixView&) {
    if (layer == 2) pass.set_keep(keep);
  };
  auto longer = tokens;  // the loss leaves the last row out
  longer.push_back(0);
  keep.push_back(1.0f);
  pass.forward(longer, forward);
  std::vector<float> found;
  pass.loss({.first_row = 47, .keep_logits = &found, .gradient = false});
  expect_close(found, session.logits(), 1e-4);
}

TEST(ModelPass, GradientOfWhatCountsAgreesWithDifferences) {
  const auto engine = open("tiny-llama");
  std::vector<TokenId> tokens(24);
  std::iota(tokens.begin(), tokens.end(), 60);
  ModelPass pass(*engine);
  const auto run = [&](std::size_t stage, std::size_t token, float change) {
    ModelPass::ForwardOptions forward;
    forward.before_layer = [&](std::int64_t layer, const MatrixView&) {
      if (layer != 1 && layer != 3) return;
      std::vector<float> keep(tokens.size(), layer == 1 ? 0.8f : 0.5f);
      if ((layer == 1 ? 0u : 1u) == stage) keep[token] += change;
      pass.set_keep(std::move(keep));
    };
    pass.forward(tokens, forward);
    return pass.loss({.first_row = 12});
  };
  run(0, 0, 0.0f);
  pass.backward({});
  std::vector<std::vector<float>> gradients;
  for (std::size_t stage : {0u, 1u})
    gradients.emplace_back(pass.keep_gradient(stage).begin(), pass.keep_gradient(stage).end());
  float largest = 0;
  for (const auto& of_stage : gradients) {
    for (const float value : of_stage) largest = std::max(largest, std::abs(value));
  }
  for (const std::size_t stage : {0u, 1u}) {
    for (const std::size_t token : {0u, 3u, 9u, 20u}) {
      const double slope = (run(stage, token, 0.01f) - run(stage, token, -0.01f)) / 0.02;
      EXPECT_NEAR(gradients[stage][token], slope, 5e-3 * largest) << "stage " << stage << ", token " << token;
    }
  }
}

TEST(Sensitivities, OfEveryHeadAndDifferent) {
  const auto engine = open("tiny-llama");
  ModelPass pass(*engine);
  std::vector<TokenId> tokens(64);
  std::iota(tokens.begin(), tokens.end(), 90);
  HeadSensitivities found;
  for (std::uint64_t seed = 0; seed < 24; ++seed) add_sensitivities(pass, tokens, seed, found);
  EXPECT_EQ(found.windows, 24);
  double least = 1e30, most = 0;
  for (const auto& layer : found.by_head) {
    for (const double value : layer) least = std::min(least, value), most = std::max(most, value);
  }
  EXPECT_GT(least, 0);
  EXPECT_GT(most, 2 * least);  // heads differ
}

}  // namespace
}  // namespace winnow
