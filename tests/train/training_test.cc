// winnow train as a whole, on a tiny model: from texts to scorers that a session prunes by.
#include "train/training.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"
#include "runtime/session.h"
#include "sparsity/token_pruner.h"
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
  policy.tokens.pool = 1;
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
  samples.policy = settings.policy;
  samples.inputs[3] = {{0, 1, 2}, settings.window, settings.pools, false};
  samples.tokens_of_window = 0;
  samples.policy.protect_head = samples.policy.protect_tail_min = 0;
  samples.policy.protect_tail_share = 0;
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

// The tiny model with a planted need: from layer 2 on, every query looks for the tokens `marked`, which give
// it something that no other token has. All embeddings have a part along kHere, which queries read, the
// marked one another along kMark, which keys and values read, and no layer writes there.
class PlantedModel {
 public:
  static constexpr std::size_t kDim = 64, kMark = 11;

  explicit PlantedModel(TokenId marked) {
    const std::string original = WINNOW_TEST_DATA "/models/tiny-llama/";
    for (const char* part : {"config.json", "tokenizer.json", "tokenizer_config.json"})
      std::filesystem::copy_file(original + part, folder_.file(part));
    const SafetensorsFile file(original + "model.safetensors");
    std::vector<std::vector<float>> values;
    std::vector<TensorToWrite> tensors;
    values.reserve(file.tensors().size());
    for (const auto& [name, tensor] : file.tensors()) {
      std::vector<float>& own = values.emplace_back(tensor.data.size() / sizeof(float));
      std::memcpy(own.data(), tensor.data.data(), tensor.data.size());
      plant(name, marked, own);
      tensors.push_back({name, tensor.shape, own});
    }
    folder_.write("model.safetensors", safetensors_bytes(tensors, {{"format", "pt"}}));
  }
  std::unique_ptr<Engine> open() const {
    EngineOptions options;
    options.model = folder_.path().string();
    options.precision = Precision::kF32;
    options.threads = 2;
    return Engine::open(options);
  }

 private:
  static constexpr std::size_t kHeadDim = 16, kHere = 5, kSlow = 7;  // kSlow hardly rotates

  static void plant(const std::string& name, TokenId marked, std::vector<float>& values) {
    const auto is = [&](const char* part) { return name.find(part) != std::string::npos; };
    const std::size_t rows = values.size() / kDim;
    if (is("embed_tokens")) {
      double squares = 0;
      for (const float value : values) squares += double{value} * value;
      const auto norm = static_cast<float>(std::sqrt(squares / static_cast<double>(rows)));
      for (std::size_t row = 0; row < rows; ++row) values[row * kDim + kHere] = 4 * norm;
      values[static_cast<std::size_t>(marked) * kDim + kMark] = 4 * norm;
    }
    if (is("o_proj") || is("down_proj")) {
      for (const std::size_t row : {kHere, kMark})
        std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(row * values.size() / kDim),
                    values.size() / kDim, 0.0f);
    }
    if (is("layers.0.") || is("layers.1.")) return;
    if (is("input_layernorm")) values[kHere] = values[kMark] = 1;
    for (std::size_t row = 0; row < rows; ++row) {
      if (is("q_proj") && row % kHeadDim == kSlow) values[row * kDim + kHere] += 1.5f;
      if (is("k_proj") && row % kHeadDim == kSlow) values[row * kDim + kMark] += 1.5f;
      if (is("v_proj")) values[row * kDim + kMark] += row % 2 == 0 ? 3.0f : -3.0f;
    }
  }

  TemporaryFolder folder_;
};

// The token that makes up about a twenty-fifth of the text.
TokenId rare_token(const std::vector<TokenId>& tokens) {
  std::map<TokenId, double> share;
  for (const TokenId token : tokens) share[token] += 1 / static_cast<double>(tokens.size());
  return std::min_element(share.begin(), share.end(),
                          [](const auto& a, const auto& b) {
                            return std::abs(a.second - 0.04) < std::abs(b.second - 0.04);
                          })
      ->first;
}

// Scorers that drop just the tokens which the model looks for learn better from the loss alone.
TEST(Training, EndToEndLowersTheValidationKl) {
  const std::string text = some_text(400);
  const PlantedModel model(rare_token(open()->tokenizer().encode(text, false)));
  const auto engine = model.open();
  const TrainingWindows windows(*engine, {{"a.txt", text}}, {.tokens = 300, .future = 4, .retrieval = 0});
  std::vector<TrainingWindow> validation;
  for (int i = 0; i < 6; ++i) validation.push_back(windows.validation(i));
  SampleSettings samples;
  samples.policy.stages = {{2, 0.5, std::nullopt}, {3, 0.5, std::nullopt}};
  samples.policy.protect_tail_min = 1;  // a marked token that always stays would do
  samples.policy.protect_tail_share = 0;
  EndToEndState state;
  for (const std::int64_t stage : samples.stages()) {
    samples.inputs[stage] = {{}, 16, {1}, /*hidden=*/true};
    const std::int64_t columns = samples.inputs[stage].columns(4, PlantedModel::kDim);
    Mlp& mlp = state.scorers[stage] = make_mlp(columns, 16, 3);
    std::fill_n(mlp.w1().begin(), columns, 0.0f);
    mlp.w1()[ScorerInputs::kPlaceColumns + PlantedModel::kMark] = 1;
    mlp.w2()[0] = -0.5f;
  }
  ModelPass pass(*engine);
  EndToEndSettings settings;
  settings.steps = 40;
  settings.rate = 2e-2;
  settings.scores_weight = 0;
  EndToEnd training(pass, settings, samples);
  const double start = training.validate(state.scorers, validation);
  double best = start;
  while (state.step < settings.steps) {
    training.step(state, windows.training(state.step));
    if (state.step % 10 == 0) best = std::min(best, training.validate(state.scorers, validation));
  }
  EXPECT_GT(start, 0.3);
  EXPECT_LT(best, 0.5 * start);
}

// A sampled token keeps its own inputs and target, and a later stage sees only what an earlier one left.
TEST(Training, SamplesStandBesideTheirTargets) {
  const auto engine = open();
  ModelPass pass(*engine, false);
  const TrainingWindows windows(*engine, {{"a.txt", some_text(300)}},
                                {.tokens = 300, .future = 16, .retrieval = 0.0});
  const TrainingWindow window = windows.training(0);
  SampleSettings settings;
  settings.policy.stages = {{1, 0.7, std::nullopt}, {3, 0.7, std::nullopt}};
  for (const std::int64_t stage : settings.stages()) settings.inputs[stage] = {{0}, 16, {1, 3}, false};
  settings.tokens_of_window = 0;
  const WindowSamples all = collect_samples(pass, window, settings, 5);
  settings.tokens_of_window = 40;
  const WindowSamples some = collect_samples(pass, window, settings, 5);
  const auto ends = [&](std::int64_t tokens) {
    const ProtectedEnds found = protected_ends(tokens, settings.policy);
    return found.tail - found.head;
  };
  const std::int64_t left = keep_count(window.context, 0.7, settings.policy);
  EXPECT_EQ(std::ssize(all.stages[0].targets), ends(window.context));
  EXPECT_EQ(std::ssize(all.stages[1].targets), ends(left));
  ASSERT_EQ(some.stages[0].targets.size(), 40u);
  const std::int64_t columns = std::ssize(all.stages[0].inputs) / std::ssize(all.stages[0].targets);
  const auto row = [&](const WindowSamples& samples, std::int64_t i) {
    const auto begin = samples.stages[0].inputs.begin() + i * columns;
    return std::vector<float>(begin, begin + columns);
  };
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < 40; ++i) {
    while (at < std::ssize(all.stages[0].targets) && row(all, at) != row(some, i)) ++at;
    ASSERT_LT(at, std::ssize(all.stages[0].targets)) << "sample " << i << " is no row of the window";
    EXPECT_EQ(all.stages[0].targets[at], some.stages[0].targets[i]);
  }
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
