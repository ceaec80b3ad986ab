// Files of learned scorers, version 2: what they may not say, and scorers that look at attention.
#include "sparsity/scorer_file.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "formats/safetensors_writer.h"
#include "sparsity/learned_scorer.h"
#include "sparsity/scorer.h"
#include "support/backend_test_util.h"
#include "support/format_testing.h"

namespace winnow::testing {
namespace {

using nlohmann::json;

json description() {
  return {
      {"version", 2},    {"model", {{"name", "m"}, {"shape_hash", "abc"}, {"model_dim", 8}, {"heads", 2}}},
      {"window", 4},     {"pools", {1, 3}},
      {"hidden", false}, {"stages", {{"3", {0, 2}}}}};
}

class ScorerFileTest : public ::testing::Test {
 protected:
  // Stage 3: 2 layers x 2 pools x 2 heads + 4 places = 12 inputs, of which `weights` makes one inner number.
  std::string write(const json& metadata, std::vector<float> weights = std::vector<float>(12)) {
    std::vector<float> fc1(24), zeros(2), fc2{1.0f, 0.0f};
    std::copy(weights.begin(), weights.end(), fc1.begin());
    const std::vector<float> zero(1);
    const std::vector<TensorToWrite> tensors{{"stage.3.fc1.weight", {2, 12}, fc1},
                                             {"stage.3.fc1.bias", {2}, zeros},
                                             {"stage.3.fc2.weight", {1, 2}, fc2},
                                             {"stage.3.fc2.bias", {1}, zero}};
    return folder_.write("s.safetensors", safetensors_bytes(tensors, {{"winnow_scorers", metadata.dump()}}));
  }
  static TokenPolicy policy(const std::string& file, std::int64_t layer = 3) {
    TokenPolicy result;
    result.scorer = ScorerKind::kLearned;
    result.pool = 1;
    result.scorer_file = file;
    result.stages = {{layer, 0.5, std::nullopt}};
    return result;
  }

  TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_ = make_reference_backend(Precision::kF32);
};

TEST_F(ScorerFileTest, SaysWhatItLooksAt) {
  const ScorerFile file(write(description()));
  EXPECT_EQ(file.version(), 2);
  const ScorerInputs& inputs = file.description().stages.at(3);
  EXPECT_EQ(inputs.attention_layers, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(inputs.columns(2, 8), 12);
  json written = to_json(file.description());
  written.erase("training");
  EXPECT_EQ(written, description());
}

TEST_F(ScorerFileTest, DamagedDescriptions) {
  const auto expect_refused = [&](const char* pointer, const json& value, ErrorCode code, const char* part) {
    json changed = description();
    changed[json::json_pointer(pointer)] = value;
    const std::string path = write(changed);
    expect_error(code, part, [&] { ScorerFile file(path); });
  };
  expect_refused("/version", 3, ErrorCode::kUnsupported, "scorers of version 3; this winnow knows 1 and 2");
  expect_refused("/version", "2", ErrorCode::kBadFormat, "no description of scorers");
  expect_refused("/model", 5, ErrorCode::kBadFormat, "name is missing");
  expect_refused("/model/heads", 0, ErrorCode::kBadFormat, "heads is out of range");
  expect_refused("/model/shape_hash", 1, ErrorCode::kBadFormat, "shape_hash is no text");
  expect_refused("/window", 1e9, ErrorCode::kBadFormat, "window is out of range");
  expect_refused("/pools", {2}, ErrorCode::kBadFormat, "pools has an even width");
  expect_refused("/pools", {-1}, ErrorCode::kBadFormat, "pools is out of range");
  expect_refused("/hidden", 1, ErrorCode::kBadFormat, "hidden is no boolean");
  expect_refused("/stages/3", {3}, ErrorCode::kBadFormat, "stages is out of range");
  expect_refused("/stages", {{"x", {0}}}, ErrorCode::kBadFormat, "stages has a key that is no layer");
}

TEST_F(ScorerFileTest, OtherModelsAndStages) {
  const std::string file = write(description());
  EXPECT_NO_THROW(make_scorer(policy(file), 8, *backend_));
  EXPECT_NO_THROW(check_scorer_model(policy(file), "abc"));
  expect_error(ErrorCode::kBadArgument,
               "were trained for the model m (shape abc), not for this one (shape def)",
               [&] { check_scorer_model(policy(file), "def"); });
  expect_error(ErrorCode::kBadArgument, "whose hidden size is 8, not 16",
               [&] { make_scorer(policy(file), 16, *backend_); });
  expect_error(ErrorCode::kBadArgument,
               "no scorer for the stage at layer 5; the file has scorers for the stages at layers 3",
               [&] { make_scorer(policy(file, 5), 8, *backend_); });
  json more = description();
  more["pools"] = {1};
  const std::string narrow = write(more);
  expect_error(ErrorCode::kBadArgument, "stage.3.fc1.weight is F32 [2, 12], expected F32 [2, 8]",
               [&] { make_scorer(policy(narrow), 8, *backend_); });
}

// Attention of layer 0 is seen by ten tokens, of which six go on: the scorer must remember the right ones.
TEST_F(ScorerFileTest, RemembersAttentionOfTheTokensThatAreLeft) {
  const HeadShape shape{2, 1, 4};
  constexpr std::int64_t kTokens = 10;
  std::vector<float> first_layer(12);
  first_layer[0] = 1.0f;  // layer 0, width 1, head 0
  const auto scorer = make_scorer(policy(write(description(), first_layer)), 8, *backend_);
  EXPECT_FALSE(scorer->needs_hidden());
  EXPECT_TRUE(scorer->watches(0));
  EXPECT_FALSE(scorer->watches(1));
  EXPECT_TRUE(scorer->watches(2));
  LayerKv kv = make_kv(*backend_, shape, kTokens);
  const RopeTable rope = make_rope(*backend_, kTokens, 4);
  const TestMatrix q = append(*backend_, kv, rope, shape, random_floats(kTokens * shape.qkv_cols(), 3), 0);
  ScorerInput input;
  input.layer = 1;
  input.kv = &kv;
  input.q = q.view();
  input.attention_scale = 0.5f;
  std::vector<std::int32_t> positions(kTokens);
  std::iota(positions.begin(), positions.end(), 20);
  input.positions = positions;
  scorer->watch(0, input);
  std::vector<float> expected(2 * kTokens);
  head_window_attention(*backend_, q.view(), kv, 0.5f, 4, 0, expected);
  double sum = 0;
  for (std::int64_t i = 0; i < kTokens; ++i) sum += expected[i];
  EXPECT_NEAR(sum, kTokens, 1e-3);  // 1 on the average

  const std::vector<std::int64_t> kept{0, 2, 5, 7, 8, 9};
  std::vector<std::int32_t> left;
  for (const std::int64_t row : kept) left.push_back(positions[row]);
  LayerKv later = make_kv(*backend_, shape, std::ssize(kept));
  const TestMatrix later_q =
      append(*backend_, later, rope, shape, random_floats(std::ssize(kept) * shape.qkv_cols(), 4), 0);
  input.positions = left;
  input.kv = &later;
  input.q = later_q.view();
  input.layer = 3;
  scorer->watch(2, input);
  std::vector<float> scores(kept.size());
  scorer->score(input, scores);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const double x = 0.5 * std::log(0.01 + expected[kept[i]]);
    EXPECT_NEAR(scores[i], 0.5 * x * std::erfc(-x / std::sqrt(2.0)), 1e-4);
  }
}

}  // namespace
}  // namespace winnow::testing
