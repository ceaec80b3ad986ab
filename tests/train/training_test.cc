// winnow train as a whole, on a tiny model: from texts to scorers that a session prunes by.
#include "train/training.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "runtime/session.h"
#include "support/format_testing.h"

namespace winnow::testing {
namespace {

std::unique_ptr<Engine> open(const std::string& name = "tiny-llama") {
  EngineOptions options;
  options.model = WINNOW_TEST_DATA "/models/" + name;
  options.precision = Precision::kF32;
  options.threads = 2;
  return Engine::open(options);
}

std::string some_text(int sentences) {
  TextRandom random(3);
  std::string text;
  for (int i = 0; i < sentences; ++i)
    text += "The " + random.key() + " of number " + random.digits(3) + " was seen near the old " +
            random.key() + " again. ";
  return text;
}

TrainingSettings small(const std::string& output) {
  TrainingSettings settings;
  settings.policy.stages = {{2, 0.7, std::nullopt}, {4, 0.7, std::nullopt}};
  settings.attention_layers = 3;  // beyond the stage before
  settings.window = 16;
  settings.pools = {1, 3};
  settings.windows = {.tokens = 400, .future = 16, .retrieval = 0.3};
  settings.training_windows = 4;
  settings.validation_windows = 2;
  settings.tokens_of_window = 64;
  settings.scorers.epochs = 4;
  settings.end_to_end_tokens = 300;
  settings.end_to_end_interval = 3;
  settings.output = output;
  return settings;
}

std::string bytes_of(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

Policy policy_for(const TrainingSettings& settings) {
  Policy policy;
  policy.tokens = settings.policy;
  policy.tokens.scorer = ScorerKind::kLearned;
  policy.tokens.scorer_file = settings.output;
  return policy;
}

TEST(Training, FromTextsToScorersThatPrune) {
  TemporaryFolder folder;
  const auto engine = open();
  for (const bool hidden : {false, true}) {
    TrainingSettings settings = small(folder.file(hidden ? "both.safetensors" : "s.safetensors"));
    settings.hidden_inputs = hidden;
    Training training(*engine, settings, {{"a.txt", some_text(400)}});
    std::vector<std::string> lines;
    TrainingCallbacks callbacks;
    callbacks.log = [&](const std::string& line) { lines.push_back(line); };
    ASSERT_TRUE(training.run(callbacks));
    EXPECT_GE(lines.size(), 2u);
    Session session(*engine);
    std::vector<TokenId> tokens = engine->tokenizer().encode(some_text(6), false);
    tokens.resize(120);
    session.prefill(tokens, policy_for(settings), {});
    ASSERT_EQ(session.stages().size(), 2u);
    for (const StageRecord& stage : session.stages()) {
      EXPECT_FALSE(stage.fallback_applied);
      EXPECT_EQ(stage.tokens_kept, stage.computed_keep_k);
    }
    EXPECT_LT(session.stages()[0].scores_min, session.stages()[0].scores_max);
  }
}

// Scores of a session are those that training computes from the same tokens: features, folding and file
// agree.
TEST(Training, ASessionScoresAsTrainingDoes) {
  TemporaryFolder folder;
  const auto engine = open();
  TrainingSettings settings = small(folder.file("s.safetensors"));
  settings.policy.stages = {{3, 0.7, std::nullopt}};
  Training training(*engine, settings, {{"a.txt", some_text(400)}});
  ASSERT_TRUE(training.run({}));
  std::vector<TokenId> tokens = engine->tokenizer().encode(some_text(6), false);
  tokens.resize(150);
  Session session(*engine);
  session.prefill(tokens, policy_for(settings), {});

  SampleSettings samples;
  samples.stages = {3};
  samples.inputs[3] = {{0, 1, 2}, settings.window, settings.pools, false};
  samples.tokens_of_window = 0;
  samples.protect_head = 0;
  samples.protect_tail = 0;
  TrainingWindow window{tokens, 150, false};
  window.tokens.push_back(tokens[0]);
  window.tokens.push_back(tokens[1]);
  ModelPass pass(*engine, false);
  const WindowSamples found = collect_samples(pass, window, samples, 0);
  ScorerDescription description;
  description.shape_hash = engine->arch().shape_hash();
  description.model_dim = engine->arch().model_dim;
  description.heads = engine->arch().heads;
  description.stages = samples.inputs;
  const auto scorers = load_scorers(settings.output, description);
  MlpPass mlp(engine->backend(), pass.ops());
  const auto scores = mlp.forward(scorers.at(3), found.stages[0].inputs);
  EXPECT_NEAR(*std::min_element(scores.begin(), scores.end()), session.stages()[0].scores_min, 1e-3);
  EXPECT_NEAR(*std::max_element(scores.begin(), scores.end()), session.stages()[0].scores_max, 1e-3);
}

TEST(Training, GoesOnWithTheSameBitsAfterAStop) {
  TemporaryFolder folder;
  const auto engine = open();
  TrainingSettings settings = small(folder.file("through.safetensors"));
  settings.end_to_end.steps = 6;
  Training through(*engine, settings, {{"a.txt", some_text(400)}});
  ASSERT_TRUE(through.run({}));
  settings.output = folder.file("stopped.safetensors");
  int asked = 0;
  bool finished = false;
  for (int stops = 0; !finished && stops < 60; ++stops) {
    asked = 0;
    TrainingCallbacks callbacks;
    callbacks.cancelled = [&] { return ++asked > 4; };
    Training part(*engine, settings, {{"a.txt", some_text(400)}});
    finished = part.run(callbacks);
  }
  ASSERT_TRUE(finished);
  EXPECT_EQ(bytes_of(folder.file("through.safetensors")), bytes_of(folder.file("stopped.safetensors")));

  settings.windows.retrieval = 0.9;
  Training other(*engine, settings, {{"a.txt", some_text(400)}});
  expect_error(ErrorCode::kBadArgument, "a run with other settings (windows", [&] { other.run({}); });
}

TEST(Training, EndToEndLowersTheValidationKl) {
  TemporaryFolder folder;
  const auto engine = open();
  TrainingSettings settings = small(folder.file("s.safetensors"));
  settings.policy.stages = {{1, 0.6, std::nullopt}, {3, 0.6, std::nullopt}};
  settings.end_to_end.steps = 24;
  settings.end_to_end.rate = 2e-3;
  settings.end_to_end_interval = 6;
  settings.end_to_end_tokens = 300;
  settings.scorers.epochs = 1;
  Training training(*engine, settings, {{"a.txt", some_text(400)}});
  ASSERT_TRUE(training.run({}));
  const auto& report = training.report()["end_to_end"];
  EXPECT_LT(report["validation"].get<double>(), report["validation_start"].get<double>());
}

TEST(Training, EveryTarget) {
  TemporaryFolder folder;
  const auto engine = open("tiny-qwen2");
  const TrainingWindows windows(*engine, {{"a.txt", some_text(300)}},
                                {.tokens = 300, .future = 16, .retrieval = 0.0});
  const TrainingWindow window = windows.training(0);
  ModelPass pass(*engine);
  for (const char* name : {"attention", "attention-mean", "gradient", "kvzap"}) {
    const auto targets = token_targets(pass, window, {1, 2}, *parse_target_kind(name), {});
    ASSERT_EQ(targets.size(), 2u) << name;
    for (const auto& of_stage : targets) {
      ASSERT_EQ(std::ssize(of_stage), window.context) << name;
      float sum = 0;
      for (const float value : of_stage) {
        EXPECT_GE(value, 0.0f);
        sum += value;
      }
      EXPECT_GT(sum, 0.0f) << name;
    }
  }
  EXPECT_FALSE(parse_target_kind("hidden"));
}

TEST(TrainingData, WindowsAreFunctionsOfTheirNumber) {
  const auto engine = open();
  const WindowSettings settings{.tokens = 400, .future = 16, .retrieval = 0.5};
  const std::vector<EvalText> texts{{"a.txt", some_text(400)}};
  const TrainingWindows first(*engine, texts, settings), second(*engine, texts, settings);
  int retrievals = 0;
  for (std::int64_t i = 0; i < 24; ++i) {
    const TrainingWindow window = first.training(i);
    EXPECT_EQ(window.tokens, second.training(i).tokens);
    EXPECT_LE(std::ssize(window.tokens), 400);
    EXPECT_GT(std::ssize(window.tokens), window.context);
    EXPECT_GE(window.context, 128);
    retrievals += window.retrieval;
  }
  EXPECT_GT(retrievals, 4);
  EXPECT_LT(retrievals, 20);
}

TEST(TrainingData, BadData) {
  const auto engine = open();
  expect_error(ErrorCode::kBadArgument, "a.txt: no text in it",
               [] { parse_training_text("a.txt", " \n\t"); });
  expect_error(ErrorCode::kBadFormat, "a.jsonl:2: not JSON",
               [] { parse_training_text("a.jsonl", "{\"text\": \"b\"}\n{\"text\": "); });
  expect_error(ErrorCode::kBadFormat, "a.jsonl:1: text is no text",
               [] { parse_training_text("a.jsonl", "{\"text\": 5}"); });
  expect_error(ErrorCode::kBadFormat, "a.jsonl:1: neither text nor instruction",
               [] { parse_training_text("a.jsonl", "{\"title\": \"x\"}"); });
  EXPECT_EQ(
      parse_training_text(
          "a.jsonl",
          "{\"instruction\": \"Why?\", \"context\": \"\", \"response\": \"So.\"}\n\n{\"text\": \"c\"}\n")
          .content,
      "Why?\nSo.\n\nc");
  expect_error(ErrorCode::kBadArgument, "no usable window in the data: the longest text gives", [&] {
    TrainingWindows(*engine, {{"a.txt", "too short"}}, {.tokens = 400, .future = 16});
  });
  expect_error(ErrorCode::kBadArgument, "windows of 100 tokens", [&] {
    TrainingWindows(*engine, {{"a.txt", some_text(400)}}, {.tokens = 100});
  });
}

TEST(Training, ScorersOfAnotherModelOrOtherStages) {
  TemporaryFolder folder;
  const auto engine = open();
  TrainingSettings settings = small(folder.file("s.safetensors"));
  ASSERT_TRUE(Training(*engine, settings, {{"a.txt", some_text(400)}}).run({}));
  Policy policy = policy_for(settings);
  policy.tokens.stages[1].layer = 5;
  Session session(*engine);
  const std::vector<TokenId> tokens(100, 5);
  expect_error(ErrorCode::kBadArgument, "no scorer for the stage at layer 5",
               [&] { session.prefill(tokens, policy, {}); });
  const auto other = open("tiny-qwen2");
  Session of_other(*other);
  Policy plain = policy_for(settings);
  plain.tokens.stages.pop_back();
  expect_error(ErrorCode::kBadArgument, "these scorers were trained for the model",
               [&] { of_other.prefill(tokens, plain, {}); });

  TrainingSettings further = settings;
  further.output = folder.file("t.safetensors");
  further.start_from = settings.output;
  further.end_to_end.steps = 2;
  further.attention_layers = 1;
  expect_error(ErrorCode::kBadArgument, "no scorer for the stage at layer 2 with these inputs", [&] {
    Training(*engine, further, {{"a.txt", some_text(400)}}).run({});
  });
}

TEST(Training, FilesThatCannotBeWritten) {
  TemporaryFolder folder;
  const auto engine = open();
  const TrainingSettings settings = small(folder.file("none/s.safetensors"));
  folder.write("none", "a file, no folder");
  expect_error(ErrorCode::kIo, "none", [&] {
    Training(*engine, settings, {{"a.txt", some_text(400)}}).run({});
  });
}

}  // namespace
}  // namespace winnow::testing
