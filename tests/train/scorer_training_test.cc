// Scorers learn planted saliency; losses, ranks and checkpoints.
#include "train/scorer_training.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/format_testing.h"
#include "train/checkpoints.h"

namespace winnow::testing {
namespace {

constexpr std::int64_t kInputs = 12, kInner = 32, kTokens = 120;

// Windows whose targets are a smooth function of the inputs, each of a window's own.
std::vector<StageSamples> planted(std::int64_t windows, std::uint64_t seed) {
  std::vector<StageSamples> samples;
  TextRandom random(seed);
  for (std::int64_t w = 0; w < windows; ++w) {
    StageSamples window;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::size_t row = window.inputs.size();
      for (std::int64_t i = 0; i < kInputs; ++i)
        window.inputs.push_back(static_cast<float>(3 * random.share() - 1));
      const float* x = window.inputs.data() + row;
      window.targets.push_back(std::tanh(2 * x[0]) + 0.7f * x[1] - 0.5f * std::abs(x[3]));
    }
    samples.push_back(std::move(window));
  }
  return samples;
}

ScorerTrainingSettings settings() {
  ScorerTrainingSettings result;
  result.epochs = 60;
  result.windows_of_batch = 1;
  result.rate = 1e-2;
  return result;
}

TEST(ScoreLoss, GradientsAgreeWithDifferences) {
  std::vector<float> scores{0.3f, -1.0f, 2.0f, 0.1f, 0.7f};
  const std::vector<float> targets{1.0f, 0.0f, 0.5f, -1.0f, 0.5f};
  const ScoreLossWeights weights{.squares = 0.7, .rank = 1.3, .pairs_of_token = 20};
  const auto value = [&](const std::vector<float>& at) {
    TextRandom random(5);
    std::vector<float> ignored(at.size());
    const ScoreLoss loss = score_loss(at, targets, weights, 1.0, random, ignored);
    return weights.squares * loss.squares + weights.rank * loss.rank;
  };
  TextRandom random(5);
  std::vector<float> gradient(scores.size());
  score_loss(scores, targets, weights, 1.0, random, gradient);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    auto above = scores, below = scores;
    above[i] += 1e-3f;
    below[i] -= 1e-3f;
    EXPECT_NEAR(gradient[i], (value(above) - value(below)) / 2e-3, 2e-3);
  }
}

TEST(ScoreLoss, RanksAndMass) {
  EXPECT_NEAR(rank_correlation(std::vector<float>{1, 2, 3, 4}, std::vector<float>{10, 20, 30, 45}), 1.0,
              1e-12);
  EXPECT_NEAR(rank_correlation(std::vector<float>{1, 2, 3, 4}, std::vector<float>{4, 3, 2, 1}), -1.0, 1e-12);
  EXPECT_EQ(rank_correlation(std::vector<float>{1, 1, 1}, std::vector<float>{1, 2, 3}), 0.0);
  EXPECT_NEAR(mass_kept(std::vector<float>{0, 3, 2, 1}, std::vector<float>{4, 1, 1, 2}, 0.5), 0.25, 1e-12);
}

TEST(ScorerTraining, LearnsPlantedSaliency) {
  const auto backend = make_cpu_backend(Precision::kF32, 2);
  ScorerTraining training(*backend, settings(), 4, kInputs, kInner, planted(24, 1), planted(6, 2));
  ScorerState state = training.start();
  std::vector<double> ranks;
  EpochLosses losses;
  while (!state.finished) {
    losses = training.run_epoch(state);
    ranks.push_back(losses.training.rank);
  }
  EXPECT_GT(training.validate(state, state.best).validation_correlation, 0.95);
  EXPECT_LT(ranks.back(), 0.7 * ranks.front());
  EXPECT_EQ(state.curve.size(), static_cast<std::size_t>(state.epoch));
}

// Targets shuffled against their samples teach nothing: that they stand in the same rows is what training
// lives from.
TEST(ScorerTraining, ShuffledTargetsTeachNothing) {
  const auto backend = make_cpu_backend(Precision::kF32, 2);
  auto samples = planted(24, 1);
  TextRandom random(9);
  for (StageSamples& window : samples) random.shuffle(window.targets);
  ScorerTraining training(*backend, settings(), 4, kInputs, kInner, samples, planted(6, 2));
  ScorerState state = training.start();
  while (!state.finished) training.run_epoch(state);
  EXPECT_LT(std::abs(training.validate(state, state.mlp).validation_correlation), 0.4);
}

TEST(ScorerTraining, GoesOnWithTheSameBits) {
  const auto backend = make_cpu_backend(Precision::kF32, 2);
  TemporaryFolder folder;
  const auto make = [&] {
    return ScorerTraining(*backend, settings(), 4, kInputs, kInner, planted(8, 1), planted(2, 2));
  };
  ScorerTraining first = make();
  ScorerState through = first.start();
  for (int i = 0; i < 6; ++i) first.run_epoch(through);
  ScorerTraining before = make();
  ScorerState stopped = before.start();
  for (int i = 0; i < 3; ++i) before.run_epoch(stopped);
  save_scorer_state(folder.file("state.safetensors"), stopped);
  ScorerTraining after = make();
  ScorerState resumed = load_scorer_state(folder.file("state.safetensors"), kInputs, kInner);
  for (int i = 0; i < 3; ++i) after.run_epoch(resumed);
  EXPECT_EQ(resumed.mlp.parameters, through.mlp.parameters);
  EXPECT_EQ(resumed.best.parameters, through.best.parameters);
  EXPECT_EQ(resumed.curve, through.curve);
}

TEST(ScorerTraining, FoldedScorerTakesInputsAsTheyCome) {
  const auto backend = make_cpu_backend(Precision::kF32, 1);
  const auto samples = planted(8, 1);
  ScorerTraining training(*backend, settings(), 4, kInputs, kInner, samples, planted(2, 2));
  ScorerState state = training.start();
  for (int i = 0; i < 3; ++i) training.run_epoch(state);
  const TrainOps ops(1);
  MlpPass pass(*backend, ops);
  std::vector<float> normalised = samples[0].inputs;
  for (std::size_t i = 0; i < normalised.size(); ++i) {
    const std::size_t column = i % kInputs;
    normalised[i] = (normalised[i] - state.input_mean[column]) * state.input_scale[column];
  }
  const auto found = pass.forward(folded_scorer(state), samples[0].inputs);
  const std::vector<float> scores(found.begin(), found.end());
  const auto expected = pass.forward(state.best, normalised);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    EXPECT_NEAR(scores[i], expected[i] / state.target_scale + state.target_mean, 1e-4);
  }
}

TEST(ScorerTraining, LossesThatAreNotFiniteStopIt) {
  const auto backend = make_cpu_backend(Precision::kF32, 1);
  ScorerTrainingSettings wild = settings();
  wild.rate = 1e30;
  ScorerTraining training(*backend, wild, 7, kInputs, kInner, planted(12, 1), planted(2, 2));
  ScorerState state = training.start();
  const auto run = [&] {
    for (int i = 0; i < 5; ++i) training.run_epoch(state);
  };
  expect_error(ErrorCode::kUnsupported, "stage 7: the loss is not finite in epoch", run);
  for (const float value : state.mlp.parameters) EXPECT_TRUE(std::isfinite(value));
  auto bad = planted(2, 1);
  bad[1].targets[3] = NAN;
  expect_error(ErrorCode::kBadArgument, "not finite",
               [&] { ScorerTraining(*backend, wild, 7, kInputs, kInner, bad, planted(1, 2)); });
}

}  // namespace
}  // namespace winnow::testing
