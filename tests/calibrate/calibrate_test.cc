// Calibration: its parts on made-up measurements, and the whole on the tiny model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "calibrate/calibration.h"
#include "calibrate/candidates.h"
#include "calibrate/prediction.h"
#include "calibrate/retrieval_signal.h"
#include "calibrate/selector_choice.h"
#include "core/error.h"
#include "sparsity/selector.h"
#include "support/eval_testing.h"

namespace winnow {
namespace {

using eval_test::some_text;
using eval_test::tiny_engine;

// One layer, two heads whose density falls alike; head 1's errors are 100 times those of head 0.
BlockCurves two_heads() {
  BlockCurves curves;
  curves.grid = {0.001f, 0.01f, 0.1f};
  curves.layers = 1;
  curves.heads = 2;
  curves.density = {0.8, 0.4, 0.1, 0.8, 0.4, 0.1};
  curves.error = {0.001, 0.01, 0.1, 0.1, 1.0, 10.0};
  curves.sensitivity = {1.0};
  curves.pairs = {1.0};
  return curves;
}

TEST(ChooseThresholds, DensityGoesWhereErrorsAreDear) {
  const ThresholdChoice choice = choose_thresholds(two_heads(), 0.5);
  EXPECT_GT(choice.thresholds[0][0], choice.thresholds[0][1]);
  EXPECT_LE(choice.density, 0.5);
  EXPECT_GT(choice.density, 0.3);
  // The same density with one threshold for both (0.4 at 0.01) loses 1.01.
  EXPECT_LT(choice.loss, 0.6);
}

TEST(ChooseThresholds, MoreDensityNeverLosesMore) {
  double before = 1e9;
  for (const double density : {0.15, 0.25, 0.4, 0.6, 0.8, 1.0}) {
    const ThresholdChoice choice = choose_thresholds(two_heads(), density);
    EXPECT_LE(choice.density, density + 1e-9);
    EXPECT_LE(choice.loss, before);
    before = choice.loss;
  }
  EXPECT_EQ(before, 0.0);  // everything computed
}

// Two layers of one head each, with the same errors.
BlockCurves two_layers(std::vector<double> sensitivity, std::vector<double> pairs) {
  BlockCurves curves = two_heads();
  curves.layers = 2;
  curves.heads = 1;
  curves.error = {0.01, 0.1, 1.0, 0.01, 0.1, 1.0};
  curves.sensitivity = std::move(sensitivity);
  curves.pairs = std::move(pairs);
  return curves;
}

TEST(ChooseThresholds, SensitivityIsOfTheLayer) {
  const BlockCurves curves = two_layers({10.0, 0.1}, {1.0, 1.0});
  const ThresholdChoice choice = choose_thresholds(curves, 0.5);
  EXPECT_LT(choice.thresholds[0][0], choice.thresholds[1][0]);
}

// A layer whose window leaves a tenth of the pairs saves a tenth: the other is cut first.
TEST(ChooseThresholds, ALayerWithAWindowSavesLess) {
  const BlockCurves curves = two_layers({1.0, 1.0}, {0.2, 1.8});
  const ThresholdChoice choice = choose_thresholds(curves, 0.5);
  EXPECT_LT(choice.thresholds[0][0], choice.thresholds[1][0]);
  EXPECT_EQ(choose_thresholds(curves, 1.0).density, 1.0);
}

// Layers 0 to 4 of this model see 11 tokens, layer 5 everything. Where nothing is left out, all of them are
// dense.
TEST(BlockCurves, CountWhatAWindowShows) {
  const auto engine = Engine::open({.model = WINNOW_TEST_DATA "/models/tiny-gemma3.gguf",
                                    .random_weights = "",
                                    .device = "cpu",
                                    .precision = Precision::kF32,
                                    .threads = 2,
                                    .progress = {}});
  CurveSettings settings;
  settings.attention = attention_policy(SelectorKind::kThreshold);
  settings.attention.rule.q_block = settings.attention.rule.k_block = 16;
  std::vector<TokenId> window;
  for (int i = 0; i < 90; ++i) window.push_back((i * i * 7 + i * 13 + 5) % 200);
  settings.windows = {window};
  BlockCurves curves;
  ASSERT_TRUE(measure_block_curves(*engine, settings, {}, {}, curves));
  const double all = 90 * 91 / 2, in_window = 11 * 12 / 2 + 79 * 11;
  EXPECT_NEAR(curves.pairs[0] / curves.pairs[5], in_window / all, 1e-9);
  for (std::int64_t layer = 0; layer < curves.layers; ++layer) {
    for (std::int64_t head = 0; head < curves.heads; ++head)
      EXPECT_NEAR(curves.density[curves.index(layer, head, 0)], 1.0, 1e-9) << layer;
  }
}

TEST(BlockCurves, SurviveJson) {
  const BlockCurves curves = two_heads();
  const BlockCurves read = block_curves_from_json(to_json(curves));
  EXPECT_EQ(read.density, curves.density);
  EXPECT_EQ(read.error, curves.error);
  EXPECT_EQ(read.grid, curves.grid);
  EXPECT_EQ(read.sensitivity, curves.sensitivity);
  EXPECT_EQ(read.pairs, curves.pairs);
}

// 30 layers of two heads; every head needs half of the prompt but those of `sharp`.
RetrievalSignal signal_with(const std::vector<std::tuple<std::int64_t, std::int64_t, double>>& sharp) {
  RetrievalSignal signal{30, 2, std::vector<double>(60, 0.1), std::vector<double>(60, 0.5)};
  for (const auto& [layer, head, needed] : sharp) signal.needed[signal.index(layer, head)] = needed;
  return signal;
}

TEST(HeadsToAsk, AreTheSharpestOfEarlierLayers) {
  const RetrievalSignal signal = signal_with({{7, 1, 0.04}, {12, 0, 0.02}, {14, 1, 0.02}, {20, 0, 0.01}});
  EXPECT_TRUE(heads_to_ask(signal, 7, 0.1).empty());
  EXPECT_EQ(heads_to_ask(signal, 8, 0.1), (std::vector<AskedHead>{{7, 1}}));
  EXPECT_EQ(heads_to_ask(signal, 15, 0.1), (std::vector<AskedHead>{{14, 1}, {12, 0}}))
      << "the later of equals";
  EXPECT_EQ(heads_to_ask(signal, 30, 0.1), (std::vector<AskedHead>{{20, 0}, {14, 1}}));
  EXPECT_EQ(heads_to_ask(signal, 30, 0.1, 3).size(), 3u);
}

TEST(StagePlaces, AreWhereAHeadKnows) {
  const StagePlaces places = find_stage_places(signal_with({{2, 0, 0.3}, {7, 1, 0.04}}));
  EXPECT_EQ(places.early, 3);
  EXPECT_EQ(places.first, 8);
  EXPECT_FALSE(find_stage_places(signal_with({{6, 0, 0.3}, {7, 1, 0.04}})).early) << "next to the first";
  EXPECT_FALSE(find_stage_places(signal_with({{6, 0, 0.3}})).first);
}

TEST(TokenCandidates, AreAFallingLadderOfStagesThatAskHeads) {
  const RetrievalSignal signal = signal_with({{2, 0, 0.2}, {7, 1, 0.04}, {15, 0, 0.02}});
  const std::vector<TokenPolicy> candidates = token_candidates(signal);
  ASSERT_EQ(candidates.size(), 7u);
  for (const TokenPolicy& tokens : candidates) {
    std::int64_t before = 0;
    double kept = 1;
    for (const Stage& stage : tokens.stages) {
      EXPECT_GT(stage.layer, before);
      EXPECT_LE(stage.layer, 27);
      EXPECT_GT(stage.keep, 0);
      EXPECT_LT(stage.keep, 1);
      ASSERT_FALSE(stage.heads.empty());
      for (const AskedHead& asked : stage.heads) EXPECT_LT(asked.layer, stage.layer);
      before = stage.layer;
      kept *= stage.keep;
    }
    EXPECT_GE(kept * tokens.quota, 1.25 * 0.02 - 1e-9) << "more than the heads need";
  }
  EXPECT_EQ(candidates[0].stages.size(), 2u);
  EXPECT_EQ(candidates[0].stages[1].layer, 8);
  EXPECT_EQ(candidates.back().stages.size(), 3u);
  EXPECT_EQ(candidates.back().stages[0].layer, 3);
  EXPECT_DOUBLE_EQ(candidates.back().stages[0].keep, 1.25 * 0.2 / 0.5) << "more than the ladder's .40";
  EXPECT_TRUE(token_candidates(signal_with({})).empty());
}

TEST(RetrievalSignal, SurvivesJson) {
  const RetrievalSignal signal = signal_with({{3, 1, 0.25}});
  const RetrievalSignal read = retrieval_signal_from_json(to_json(signal));
  EXPECT_EQ(read.needed, signal.needed);
  EXPECT_EQ(read.recall, signal.recall);
  nlohmann::json bad = to_json(signal);
  bad["layers"] = 29;
  EXPECT_THROW(retrieval_signal_from_json(bad), Error);
}

Measured measured(double kl, double niah, double speedup, double density, double attn_work) {
  Measured m;
  m.kl = kl;
  m.niah = niah;
  m.speedup = speedup;
  m.density = density;
  m.attn_work = attn_work;
  return m;
}

// Attention takes half of dense time: density 0.2 saves 0.4 of all time, a speed-up of 1 / 0.6.
TEST(CombinationModel, ByHand) {
  const Measured dense = measured(0, 1.0, 1, 1, 1), blocks = measured(0.01, 0.9, 1 / 0.6, 0.2, 0.2);
  const CombinationModel model(dense, std::vector<Measured>{blocks});
  const auto alone = model.combine(dense, blocks);
  EXPECT_NEAR(alone.speedup, 1 / 0.6, 1e-9);
  EXPECT_NEAR(alone.kl, 0.01, 1e-12);
  // Half of the tokens' attention is left after pruning: blocks save 0.5 x 0.8 x 0.5 of dense time.
  const Measured tokens = measured(0.03, 0.8, 2, 1, 0.5);
  const auto both = model.combine(tokens, blocks);
  EXPECT_NEAR(both.speedup, 1 / (0.5 - 0.2), 1e-9);
  EXPECT_NEAR(both.kl, std::hypot(0.03, 0.01), 1e-12);
  EXPECT_NEAR(both.niah, 0.7, 1e-12);
}

TEST(NeedleTokens, CoverTheNeedle) {
  const Tokenizer& tokenizer = tiny_engine("cpu").tokenizer();
  const std::string text = "The number is 48213, they said.";
  const NeedlePrompt prompt{tokenizer.encode(text, false), "48213"};
  const std::vector<std::int64_t> tokens = needle_tokens(tokenizer, prompt);
  ASSERT_FALSE(tokens.empty());
  std::string covered;
  for (const std::int64_t i : tokens) covered += tokenizer.token_bytes(prompt.tokens[i]);
  EXPECT_NE(covered.find("48213"), std::string::npos);
  EXPECT_LE(covered.size(), 9u);
  EXPECT_TRUE(needle_tokens(tokenizer, {prompt.tokens, "99999"}).empty());
}

// On a machine where only one candidate's blocks cost anything like nothing, that one is chosen.
TEST(SelectorChoice, GoesByWhatBlocksCostHere) {
  const std::vector<AttentionPolicy> candidates = selector_candidates();
  for (const AttentionPolicy& cheap : candidates) {
    const auto engine =
        Engine::open({.model = WINNOW_TEST_DATA "/models/tiny-llama",
                      .random_weights = "",
                      .precision = Precision::kF32,
                      .threads = 2,
                      .progress = {},
                      .attention_costs = [&](const BlockRule& rule) {
                        const bool same =
                            rule.estimator == cheap.rule.estimator && rule.k_block == cheap.rule.k_block;
                        return AttentionCosts{
                            .dense_ns = 1, .sparse_ns = same ? 1e-3 : 10, .setup_ns = 0, .plan_ns = 1e-3};
                      }});
    const std::vector<TokenId> tokens = engine->tokenizer().encode(some_text().content, false);
    const auto chosen = choose_selector(*engine, std::span(tokens).first(400), {}, {});
    ASSERT_TRUE(chosen);
    EXPECT_EQ(chosen->selector, cheap.selector);
    EXPECT_EQ(chosen->rule.k_block, cheap.rule.k_block);
  }
}

class CalibrationTest : public testing::Test {
 protected:
  static CalibrationSettings small() {
    CalibrationSettings settings;
    settings.texts = {some_text()};
    settings.length = 500;
    settings.search_windows = settings.held_out_windows = 2;
    settings.search_needles = settings.held_out_needles = 2;
    settings.budget.min_niah = 0;  // random weights find nothing
    return settings;
  }
  Scratch scratch_;
};

TEST_F(CalibrationTest, AWideBudgetIsMetAndHeldOut) {
  CalibrationSettings settings = small();
  settings.budget.max_kl = 100;
  const auto result = Calibration(tiny_engine("cpu"), settings).run({});
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->met);
  EXPECT_TRUE(result->best.held_out);
  EXPECT_LE(result->best.kl, 100);
  EXPECT_TRUE(result->policy.measured["second_question_niah"].is_number());
  EXPECT_TRUE(result->policy.measured["second_question_niah_dense"].is_number());
  EXPECT_EQ(result->signal.recall_by_layer().size(), 6u);
  EXPECT_FALSE(result->policy.dense());
  EXPECT_EQ(result->policy.model_layers, 6);
  EXPECT_EQ(result->policy.measured["length"], 500);
  EXPECT_EQ(result->policy.measured["text_sha256"].get<std::string>().size(), 64u);
  // What it writes is a policy that reads back and fits.
  const Policy read = policy_from_json(policy_to_json(result->policy), "written");
  check_policy(read, tiny_engine("cpu").facts(), "written");
}

// Random weights may have no stages: then there are the evictions alone.
TEST_F(CalibrationTest, TheFrontierHasEveryBaseline) {
  CalibrationSettings settings = small();
  settings.budget.max_kl = 100;
  CalibrationOptions options;
  options.baselines = true;
  const auto result = Calibration(tiny_engine("cpu"), settings).run(options);
  ASSERT_TRUE(result);
  std::size_t baselines = 0;
  for (const Measured& measured : result->frontier) {
    if (!measured.baseline) continue;
    ++baselines;
    EXPECT_EQ(measured.timed, measured.policy.timed()) << measured.policy.name;
    EXPECT_EQ(measured.windows, settings.search_windows);
    EXPECT_EQ(measured.needles, settings.search_needles);
  }
  EXPECT_EQ(baselines, result->policy.prunes() ? 7u : 2u);
}

TEST_F(CalibrationTest, AnImpossibleBudgetSaysSo) {
  CalibrationSettings settings = small();
  settings.budget.max_kl = 1e-12;
  settings.budget.min_speedup = 900;
  CalibrationOptions options;
  std::vector<double> shares;
  std::multiset<std::string> steps;
  options.progress = [&](double share, const std::string& what) {
    shares.push_back(share);
    steps.insert(what);
  };
  const auto result = Calibration(tiny_engine("cpu"), settings).run(options);
  ASSERT_TRUE(result);
  EXPECT_FALSE(result->met);
  EXPECT_TRUE(result->best.held_out);
  // Several rounds of combinations and held-out texts, and yet what is done never gets less.
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_EQ(shares.back(), 1);
  EXPECT_TRUE(steps.contains("combinations"));
  // Every policy that met the held-out texts is asked second questions, and dense once beside all of them.
  const auto asked = std::count_if(result->frontier.begin(), result->frontier.end(),
                                   [](const Measured& m) { return m.second_question.has_value(); });
  EXPECT_GT(asked, 1);
  EXPECT_EQ(steps.count("a second question"),
            static_cast<std::size_t>((asked + 1) * settings.held_out_needles));
  for (const Measured& m : result->frontier)
    EXPECT_EQ(m.second_question.has_value(), m.second_question_dense.has_value()) << m.policy.name;
}

TEST_F(CalibrationTest, GoesOnWhereItStopped) {
  CalibrationSettings settings = small();
  settings.budget.max_kl = 100;
  CalibrationOptions options;
  options.state_file = scratch_.file("state.json");
  Journal journal(scratch_.file("journal.jsonl"));
  options.journal = &journal;
  double last = 0;
  options.progress = [&](double share, const std::string&) { last = share; };
  options.cancelled = [&] { return last > 0.3; };
  Calibration calibration(tiny_engine("cpu"), settings);
  EXPECT_FALSE(calibration.run(options));
  const std::size_t kept = journal.size();
  EXPECT_GT(kept, 0u);
  options.cancelled = {};
  double first_share = -1;
  options.progress = [&](double share, const std::string&) {
    if (first_share < 0) first_share = share;
  };
  const auto result = calibration.run(options);
  ASSERT_TRUE(result);
  EXPECT_GE(first_share, 0.2);  // curves and signal came from the state file
  EXPECT_TRUE(result->met);
}

TEST_F(CalibrationTest, FaultsShowBeforeAnyWork) {
  CalibrationSettings settings = small();
  settings.budget = {};
  EXPECT_THROW(Calibration(tiny_engine("cpu"), settings), Error);
  settings = small();
  settings.budget.max_kl = 1;
  settings.length = 1 << 20;
  EXPECT_THROW(Calibration(tiny_engine("cpu"), settings), Error);
  settings.length = 500;
  settings.texts = {{"short", "too short"}};
  EXPECT_THROW(Calibration(tiny_engine("cpu"), settings), Error);
}

}  // namespace
}  // namespace winnow
