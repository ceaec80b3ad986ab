// POLICY on the command line, and the check against a model.
#include "sparsity/policy.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "support/format_testing.h"

namespace winnow {
namespace {

ModelFacts model_of(std::int64_t layers) { return {"tiny", "abc123", layers, 4}; }

std::vector<std::int64_t> stage_layers(const Policy& policy) {
  std::vector<std::int64_t> layers;
  for (const Stage& stage : policy.tokens.stages) layers.push_back(stage.layer);
  return layers;
}

TEST(ParsePolicy, Dense) {
  const Policy policy = parse_policy("dense", model_of(1));
  EXPECT_TRUE(policy.dense());
  EXPECT_EQ(policy.name, "dense");
}

TEST(ParsePolicy, PresetsFollowThePublishedSchedule) {
  for (const auto& [name, keep] : {std::pair{"keep09", 0.9}, {"keep08", 0.8}, {"keep07", 0.7}}) {
    const Policy policy = parse_policy(name, model_of(28));
    EXPECT_EQ(policy.name, name);
    EXPECT_EQ(stage_layers(policy), (std::vector<std::int64_t>{4, 7, 10, 13, 16, 19, 22, 25}));
    for (const Stage& stage : policy.tokens.stages) {
      EXPECT_EQ(stage.keep, keep);
      EXPECT_FALSE(stage.top_p);
    }
    EXPECT_EQ(policy.tokens.scorer, ScorerKind::kAttention);
    EXPECT_EQ(policy.tokens.window, 64);
    EXPECT_EQ(policy.tokens.heads, HeadReduction::kMax);
  }
}

TEST(ParsePolicy, LastStageLeavesThreeLayers) {
  EXPECT_EQ(stage_layers(parse_policy("keep08", model_of(7))), (std::vector<std::int64_t>{4}));
  EXPECT_EQ(stage_layers(parse_policy("keep08", model_of(9))), (std::vector<std::int64_t>{4}));
  EXPECT_EQ(stage_layers(parse_policy("keep08", model_of(10))), (std::vector<std::int64_t>{4, 7}));
  EXPECT_EQ(stage_layers(parse_policy("keep08", model_of(30))).back(), 25);
}

TEST(ParsePolicy, PresetWithScorer) {
  const Policy recency = parse_policy("keep08:recency", model_of(28));
  EXPECT_EQ(recency.name, "keep08:recency");
  EXPECT_EQ(recency.tokens.scorer, ScorerKind::kRecency);
  EXPECT_EQ(recency.tokens.stages.size(), 8u);
  const Policy learned = parse_policy("keep09:learned=folder/with:colon/s.safetensors", model_of(28));
  EXPECT_EQ(learned.tokens.scorer, ScorerKind::kLearned);
  EXPECT_EQ(learned.tokens.scorer_file, "folder/with:colon/s.safetensors");
  EXPECT_EQ(parse_policy("dense:norm", model_of(28)).tokens.scorer, ScorerKind::kNorm);
}

TEST(ParsePolicy, FilesMayHaveColonsInTheirNames) {
  const TemporaryFolder folder;
  const std::string json =
      R"({"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 0.5}], "scorer": "norm"}})";
  const std::string file = folder.write("a:b=c.json", json);
  EXPECT_EQ(parse_policy(file, model_of(4)).tokens.scorer, ScorerKind::kNorm);
  EXPECT_EQ(parse_policy(file, model_of(4)).name, file);
  const Policy named = parse_policy(file + ":random", model_of(4));
  EXPECT_EQ(named.tokens.scorer, ScorerKind::kRandom);
  EXPECT_EQ(stage_layers(named), (std::vector<std::int64_t>{2}));
  EXPECT_EQ(parse_policy(file + ":learned=x", model_of(4)).tokens.scorer_file, "x");
  expect_error(ErrorCode::kBadArgument, "unknown scorer \"magic\"",
               [&] { parse_policy(file + ":magic", model_of(4)); });
}

TEST(ParsePolicy, ASelectorFollowsAPlus) {
  const Policy both = parse_policy("keep08:recency+pooled=0.9", model_of(28));
  EXPECT_EQ(both.name, "keep08:recency+pooled=0.9");
  EXPECT_EQ(both.tokens.scorer, ScorerKind::kRecency);
  EXPECT_EQ(both.tokens.stages.size(), 8u);
  EXPECT_EQ(both.attention.selector, SelectorKind::kPooled);
  EXPECT_EQ(both.attention.thresholds, (std::vector<std::vector<float>>{{0.9f}}));
  for (const char* text : {"pooled=0.9", "dense+pooled=0.9"}) {
    const Policy alone = parse_policy(text, model_of(2));
    EXPECT_FALSE(alone.dense());
    EXPECT_FALSE(alone.prunes());
    EXPECT_EQ(policy_to_json(alone)["attention"], policy_to_json(both)["attention"]);
  }
  const Policy local = parse_policy("local", model_of(2));
  EXPECT_EQ(local.attention.rule.estimator, BlockEstimator::kNone);
  EXPECT_EQ(parse_policy("threshold", model_of(2)).attention.thresholds[0][0], 0.01f);
  EXPECT_TRUE(parse_policy("dense+dense", model_of(2)).dense());
  EXPECT_EQ(parse_policy("keep08:learned=a+b+antidiagonal", model_of(28)).tokens.scorer_file, "a+b");
}

TEST(ParsePolicy, ASelectorTakesThePlaceOfTheFiles) {
  const TemporaryFolder folder;
  const std::string json =
      R"({"version": 1, "attention": {"selector": "pooled", "thresholds": 0.5, "q_block": 16}})";
  const std::string file = folder.write("a+local", json);
  EXPECT_EQ(parse_policy(file, model_of(4)).attention.rule.q_block, 16) << "the whole text is a file";
  const Policy replaced = parse_policy(file + "+exact_mass", model_of(4));
  EXPECT_EQ(replaced.attention.selector, SelectorKind::kExactMass);
  EXPECT_EQ(replaced.attention.rule.q_block, BlockRule{}.q_block);
  EXPECT_TRUE(parse_policy(file + "+dense", model_of(4)).dense());
}

TEST(ParsePolicy, TheOracleIsRead) {
  EXPECT_EQ(parse_policy("keep08:oracle", model_of(28)).tokens.scorer, ScorerKind::kOracle);
}

TEST(ParsePolicy, AFileIsCheckedAgainstTheModel) {
  const TemporaryFolder folder;
  const std::string file =
      folder.write("p.json", R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 0.5}]}})");
  expect_error(ErrorCode::kBadArgument, file + ": tokens.stages[0].layer is 4, but tiny has 4 layers",
               [&] { parse_policy(file, model_of(4)); });
  EXPECT_EQ(parse_policy(file, model_of(5)).tokens.stages.size(), 1u);
  EXPECT_EQ(parse_policy(file, ModelFacts{}).tokens.stages.size(), 1u)
      << "no model is known: nothing to check";
}

struct BadText {
  const char* text;
  ErrorCode code;
  std::vector<const char*> parts;
};

// auto takes the calibrated file that was made for a model of this very shape, the most careful one.
TEST(ParsePolicy, AutoFindsTheModelsOwnPolicy) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "winnow-auto-policy-test";
  std::filesystem::create_directories(folder / "policies");
  const auto write = [&](const char* name, const char* shape, double keep, const char* measured) {
    std::ofstream(folder / "policies" / name) << fmt::format(
        R"({{"version": 1, "model": {{"layers": 30, "shape_hash": "{}"}},
            "tokens": {{"stages": [{{"layer": 9, "keep": {}}}]}}{}}})",
        shape, keep, measured);
  };
  write("a.json", "another", 0.1, R"(, "measured": {"kl": 0.01})");
  write("b.json", "mine", 0.2, "");  // by hand, not calibrated
  write("bold.json", "mine", 0.15, R"(, "measured": {"kl": 0.05})");
  write("c.json", "mine", 0.3, R"(, "measured": {"kl": 0.01})");
  write("d.json", "mine", 0.4, R"(, "measured": {"kl": null})");
  setenv("WINNOW_DATA_DIR", folder.c_str(), 1);
  const ModelFacts mine{.name = "m", .shape_hash = "mine", .layers = 30};
  const Policy found = parse_policy("auto", mine);
  ModelFacts other = mine;
  other.shape_hash = "none";
  EXPECT_THROW(parse_policy("auto", other), Error);
  unsetenv("WINNOW_DATA_DIR");
  std::filesystem::remove_all(folder);
  ASSERT_EQ(found.tokens.stages.size(), 1u);
  EXPECT_EQ(found.tokens.stages[0].keep, 0.3);
  EXPECT_EQ(found.name, "auto");
}

TEST(ParsePolicy, ErrorsSayWhatIsPossible) {
  const BadText cases[] = {
      {"keep06",
       ErrorCode::kBadArgument,
       {"keep06", "does not exist", "dense, keep09, keep08, keep07", "recency"}},
      {"", ErrorCode::kBadArgument, {"does not exist", "keep08"}},
      {"no/such.json", ErrorCode::kBadArgument, {"no/such.json", "does not exist"}},
      {"no/such.json:recency", ErrorCode::kBadArgument, {"\"no/such.json\"", "does not exist"}},
      {"auto",
       ErrorCode::kBadArgument,
       {"no calibrated policy for tiny yet", "dense, keep09, keep08, keep07"}},
      {"auto:recency", ErrorCode::kBadArgument, {"no calibrated policy"}},
      {"keep08:magic", ErrorCode::kBadArgument, {"magic", "attention, recency, random, norm, learned"}},
      {"keep08:", ErrorCode::kBadArgument, {"unknown scorer \"\"", "attention"}},
      {"keep08+magic", ErrorCode::kBadArgument, {"keep08+magic", "does not exist", "pooled"}},
      {"keep08+pooled=", ErrorCode::kBadArgument, {"threshold \"\"", "(0, 1]"}},
      {"keep08+pooled=0", ErrorCode::kBadArgument, {"threshold \"0\""}},
      {"keep08+pooled=1.5", ErrorCode::kBadArgument, {"threshold \"1.5\""}},
      {"keep08+pooled=0.9x", ErrorCode::kBadArgument, {"threshold \"0.9x\""}},
      {"pooled=nan", ErrorCode::kBadArgument, {"threshold \"nan\""}},
      {"local=0.5", ErrorCode::kBadArgument, {"local takes no threshold"}},
      {"keep08+dense=0.5", ErrorCode::kBadArgument, {"dense takes no threshold"}},
      {"keep08+local+pooled", ErrorCode::kBadArgument, {"two selectors"}},
      {"pooled+local", ErrorCode::kBadArgument, {"two selectors"}},
      {"+pooled", ErrorCode::kBadArgument, {"does not exist"}},
      {"no/such.json+pooled", ErrorCode::kBadArgument, {"\"no/such.json\"", "does not exist"}},
      {"keep08:learned", ErrorCode::kBadArgument, {"learned needs its file", "keep08:learned=FILE"}},
      {"keep08:learned=", ErrorCode::kBadArgument, {"learned needs its file"}},
      {"keep08:recency=x", ErrorCode::kBadArgument, {"recency takes no file"}},
  };
  for (const BadText& c : cases) {
    SCOPED_TRACE(c.text);
    for (const char* part : c.parts) expect_error(c.code, part, [&] { parse_policy(c.text, model_of(28)); });
  }
}

TEST(ParsePolicy, ShallowModelsHaveNoSchedule) {
  for (const char* part : {"keep08", "7 layers or more", "tiny has 6"}) {
    expect_error(ErrorCode::kBadArgument, part, [] { parse_policy("keep08", model_of(6)); });
  }
}

TEST(ParsePolicy, BadFiles) {
  const TemporaryFolder folder;
  const auto parse = [&](const char* content) {
    return [&folder, content] { parse_policy(folder.write("p.json", content), model_of(28)); };
  };
  expect_error(ErrorCode::kBadFormat, "p.json: bad JSON", parse("{"));
  expect_error(ErrorCode::kBadFormat, "no object", parse("[]"));
  expect_error(ErrorCode::kBadFormat, "version appears twice", parse(R"({"version": 1, "version": 1})"));
  expect_error(ErrorCode::kBadFormat, "keep appears twice",
               parse(R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 0.5, "keep": 0.6}]}})"));
  const std::string large = "{\"version\": 1" + std::string((1 << 20), ' ') + "}";
  expect_error(ErrorCode::kBadFormat, "at most 1048576", parse(large.c_str()));
  expect_error(ErrorCode::kIo, folder.path().string(),
               [&] { parse_policy(folder.path().string(), model_of(28)); });
}

TEST(CheckPolicy, NamesFoundAndExpected) {
  Policy policy;
  policy.model_name = "other";
  EXPECT_NO_THROW(check_policy(policy, model_of(28), "p.json")) << "names are not compared";
  policy.model_layers = 24;
  expect_error(ErrorCode::kBadArgument,
               "p.json: made for another model (other): model.layers is 24, but tiny has 28",
               [&] { check_policy(policy, model_of(28), "p.json"); });
  policy.model_layers = 28;
  policy.shape_hash = "ffff";
  expect_error(ErrorCode::kBadArgument, "model.shape_hash is ffff, but tiny has abc123",
               [&] { check_policy(policy, model_of(28), "p.json"); });
  policy.shape_hash = "abc123";
  EXPECT_NO_THROW(check_policy(policy, model_of(28), "p.json"));
}

TEST(CheckPolicy, StagesLieInsideTheModel) {
  for (const std::int64_t layer : {-1, 0, 28, 29}) {
    Policy policy;
    policy.tokens.stages = {{layer, 0.5, std::nullopt, {}}};
    expect_error(ErrorCode::kBadArgument, "a stage lies in 1..27",
                 [&] { check_policy(policy, model_of(28), "p.json"); });
  }
  Policy policy;
  policy.tokens.stages = {{1, 0.5, std::nullopt, {}}, {27, 0.5, std::nullopt, {}}};
  EXPECT_NO_THROW(check_policy(policy, model_of(28), "p.json"));
}

TEST(CheckPolicy, ThresholdsHaveTheModelsShape) {
  const ModelFacts model{"tiny", "abc123", 2, 3};
  Policy policy;
  policy.attention.selector = SelectorKind::kPooled;
  for (const std::vector<std::vector<float>>& fits :
       {std::vector<std::vector<float>>{{0.5f}}, {{0.5f}, {0.6f}}, {{0.5f}, {0.6f, 0.7f, 0.8f}}}) {
    policy.attention.thresholds = fits;
    EXPECT_NO_THROW(check_policy(policy, model, "p.json"));
  }
  policy.attention.thresholds = {{0.5f}, {0.5f}, {0.5f}};
  expect_error(ErrorCode::kBadArgument, "p.json: attention.thresholds has 3 layers, but tiny has 2",
               [&] { check_policy(policy, model, "p.json"); });
  policy.attention.thresholds = {{0.5f, 0.6f, 0.7f}};
  expect_error(ErrorCode::kBadArgument, "attention.thresholds has 1 layers",
               [&] { check_policy(policy, model, "p.json"); });
  policy.attention.thresholds = {{0.5f}, {0.5f, 0.6f}};
  expect_error(ErrorCode::kBadArgument, "attention.thresholds[1] has 2 numbers, but tiny has 3 heads",
               [&] { check_policy(policy, model, "p.json"); });
}

TEST(CheckPolicy, SomeLayerIsLeftForTheSelector) {
  Policy policy;
  policy.attention.selector = SelectorKind::kLocal;
  policy.attention.dense_first_layers = 27;
  EXPECT_NO_THROW(check_policy(policy, model_of(28), "p.json"));
  policy.attention.dense_first_layers = 28;
  expect_error(ErrorCode::kBadArgument, "p.json: attention.dense_first_layers is 28, but tiny has 28",
               [&] { check_policy(policy, model_of(28), "p.json"); });
}

TEST(ScorerName, IsTheOneOfTheFile) {
  EXPECT_STREQ(scorer_name(ScorerKind::kAttention), "attention");
  EXPECT_STREQ(scorer_name(ScorerKind::kLearned), "learned");
}

}  // namespace
}  // namespace winnow
