// Policy files: what is read, what is refused and how, and that writing and reading give the same policy.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "sparsity/policy.h"
#include "support/format_testing.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

Policy read(const std::string& text) { return policy_from_json(Json::parse(text), "some/p.json"); }

constexpr const char* kFull = R"({
  "version": 2,
  "model": {"name": "m", "layers": 30, "shape_hash": "0123"},
  "tokens": {"stages": [{"layer": 3, "keep": 0.5}, {"layer": 16, "top_p": 0.9}],
             "scorer": "learned", "window": 32, "queries": "max", "heads": "mean", "pool": 3, "recency_mix": 0.25,
             "quota": 0.6, "scorer_file": "sub/../s.safetensors", "seed": 18446744073709551615,
             "protect_head": 1, "protect_tail": {"min": 2, "share": 0.05},
             "positions": "compact", "kv": "final"},
  "attention": {"selector": "antidiagonal", "stride": 4, "thresholds": 0.9},
  "measured": {"kl": 0.01, "dce": null, "niah": 0.9, "second_question_niah": 0.8, "second_question_niah_dense": 0.85, "speedup": 1.5,
               "density": 1, "avgtok": 0.5, "length": 4096, "text_sha256": "ff", "machine": {"cpu": "x"}}})";

TEST(PolicyFromJson, ReadsEveryKey) {
  const Policy policy = read(kFull);
  EXPECT_EQ(policy.name, "some/p.json");
  EXPECT_EQ(policy.model_name, "m");
  EXPECT_EQ(policy.model_layers, 30);
  EXPECT_EQ(policy.shape_hash, "0123");
  const TokenPolicy& tokens = policy.tokens;
  ASSERT_EQ(tokens.stages.size(), 2u);
  EXPECT_EQ(tokens.stages[0].layer, 3);
  EXPECT_EQ(tokens.stages[0].keep, 0.5);
  EXPECT_FALSE(tokens.stages[0].top_p);
  EXPECT_EQ(tokens.stages[1].layer, 16);
  EXPECT_EQ(tokens.stages[1].top_p, 0.9);
  EXPECT_EQ(tokens.scorer, ScorerKind::kLearned);
  EXPECT_EQ(tokens.window, 32);
  EXPECT_EQ(tokens.queries, QueryReduction::kMax);
  EXPECT_EQ(tokens.heads, HeadReduction::kMean);
  EXPECT_EQ(tokens.pool, 3);
  EXPECT_EQ(tokens.recency_mix, 0.25);
  EXPECT_EQ(tokens.quota, 0.6);
  EXPECT_EQ(tokens.scorer_file, "some/s.safetensors") << "relative to the policy file";
  EXPECT_EQ(tokens.seed, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(tokens.protect_head, 1);
  EXPECT_EQ(tokens.protect_tail_min, 2);
  EXPECT_EQ(tokens.protect_tail_share, 0.05);
  EXPECT_EQ(tokens.positions, PositionMode::kCompact);
  EXPECT_EQ(tokens.kv, KvMode::kFinal);
  EXPECT_EQ(policy.measured.at("speedup"), 1.5);
}

TEST(PolicyFromJson, DefaultsAreThoseOfTheDesign) {
  const Policy policy = read(R"({"version": 1, "tokens": {"scorer_file": null}, "attention": {}})");
  EXPECT_TRUE(policy.dense());
  EXPECT_EQ(policy_to_json(policy), policy_to_json(Policy{}));
  const Json tokens = policy_to_json(policy).at("tokens");
  EXPECT_EQ(
      tokens,
      Json::parse(
          R"({"stages": [], "scorer": "attention", "window": 64, "queries": "mean", "heads": "max", "pool": 7,
      "recency_mix": 0.0, "quota": 1.0, "scorer_file": null, "seed": 0, "protect_head": 4,
      "protect_tail": {"min": 16, "share": 0.1}, "positions": "original", "kv": "own"})"));
}

TEST(PolicyFromJson, AnAbsoluteScorerFileStays) {
  const Policy policy =
      read(R"({"version": 1, "tokens": {"scorer": "learned", "scorer_file": "/x/s.safetensors"}})");
  EXPECT_EQ(policy.tokens.scorer_file, "/x/s.safetensors");
}

// It keeps the tokens that it kept when winnow wrote it, though every file had a pool then as well.
TEST(PolicyFromJson, LearnedScoresOfVersion1AreNotPooled) {
  const auto of = [](int version, const char* scorer) {
    return read(fmt::format(
        R"({{"version": {}, "tokens": {{"scorer": "{}", "scorer_file": "s.safetensors", "pool": 7}}}})",
        version, scorer));
  };
  EXPECT_EQ(of(1, "learned").tokens.pool, 1);
  EXPECT_EQ(of(2, "learned").tokens.pool, 7);
  EXPECT_EQ(of(1, "attention").tokens.pool, 7);
  const Json written = policy_to_json(of(1, "learned"));
  EXPECT_EQ(written.at("version"), 2);
  EXPECT_EQ(policy_from_json(written, "some/p.json").tokens.pool, 1);
}

constexpr const char* kHeads = R"({"version": 1, "tokens": {"stages": [
  {"layer": 8, "keep": 0.5, "heads": [[7, 7]]}, {"layer": 13, "keep": 0.5}, {"layer": 18, "top_p": 0.5, "heads": [[17, 2], [7, 7]]}]}})";

TEST(PolicyFromJson, StagesNameTheHeadsTheyAsk) {
  const std::vector<Stage> stages = read(kHeads).tokens.stages;
  ASSERT_EQ(stages.size(), 3u);
  EXPECT_EQ(stages[0].heads, (std::vector<AskedHead>{{7, 7}}));
  EXPECT_TRUE(stages[1].heads.empty());
  EXPECT_EQ(stages[2].heads, (std::vector<AskedHead>{{17, 2}, {7, 7}}));
}

TEST(PolicyToJson, RoundTrips) {
  for (const char* text : {kFull, kHeads, R"({"version": 1})"}) {
    const Json written = policy_to_json(read(text));
    EXPECT_EQ(policy_to_json(policy_from_json(written, "elsewhere/q.json")), written)
        << "wherever it is saved";
    EXPECT_EQ(Json::parse(written.dump()), written);
  }
}

struct BadJson {
  const char* json;
  std::vector<const char*> parts;
  ErrorCode code = ErrorCode::kBadFormat;
};

void expect_refused(const BadJson& c) {
  SCOPED_TRACE(c.json);
  expect_error(c.code, "some/p.json", [&] { read(c.json); });
  for (const char* part : c.parts) expect_error(c.code, part, [&] { read(c.json); });
}

TEST(PolicyFromJson, UnknownKeysAreNamedAtEveryLevel) {
  const BadJson cases[] = {
      {R"({"version": 1, "token": {}})",
       {"unknown key token;", "version, model, tokens, attention, measured"}},
      {R"({"version": 1, "model": {"hash": ""}})", {"unknown key model.hash;", "name, layers, shape_hash"}},
      {R"({"version": 1, "tokens": {"stage": []}})", {"unknown key tokens.stage;", "stages, scorer, window"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 1, "keep": 1}, {"layer": 2, "ratio": 1}]}})",
       {"unknown key tokens.stages[1].ratio;", "layer, keep, top_p"}},
      {R"({"version": 1, "tokens": {"protect_tail": {"max": 1}}})",
       {"unknown key tokens.protect_tail.max;", "min, share"}},
      {R"({"version": 1, "attention": {"mode": 1}})", {"unknown key attention.mode;", "selector, q_block"}},
      {R"({"version": 1, "measured": {"ppl": 1}})", {"unknown key measured.ppl;", "kl, dce, niah"}},
  };
  for (const BadJson& c : cases) expect_refused(c);
}

TEST(PolicyFromJson, VersionsAndShapes) {
  const BadJson cases[] = {
      {"{}", {"version", "is missing, expected 2"}},
      {R"({"version": 3})", {"version", "found 3", "reads versions 1 to 2"}, ErrorCode::kUnsupported},
      {R"({"version": "1"})", {"version: found \"1\""}},
      {R"({"version": 1.0})", {"version: found 1.0, expected an integer"}},
      {"[1]", {"the policy is [1], expected an object"}},
      {R"({"version": 1, "model": null})", {"model is null, expected an object"}},
      {R"({"version": 1, "tokens": []})", {"tokens is [], expected an object"}},
      {R"({"version": 1, "tokens": {"stages": {}}})", {"tokens.stages: found {}, expected an array"}},
      {R"({"version": 1, "tokens": {"stages": [4]}})", {"tokens.stages[0] is 4, expected an object"}},
      {R"({"version": 1, "tokens": {"protect_tail": 4}})", {"tokens.protect_tail is 4, expected an object"}},
      {R"({"version": 1, "model": {"name": 1}})", {"model.name: found 1, expected a string"}},
      {R"({"version": 1, "model": {"layers": 0}})", {"model.layers: found 0"}},
      {R"({"version": 1, "measured": {"kl": "x"}})", {"measured.kl: found \"x\", expected a number"}},
      {R"({"version": 1, "measured": {"text_sha256": 1}})",
       {"measured.text_sha256: found 1, expected a string"}},
  };
  for (const BadJson& c : cases) expect_refused(c);
}

TEST(PolicyFromJson, HeadsAsked) {
  const auto with = [](const std::string& heads, const std::string& rest = "") {
    return R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 1, "heads": )" + heads + "}]" + rest +
           "}}";
  };
  const std::string path = "tokens.stages[0].heads", list = "expected a list of [layer, head]";
  for (const char* heads : {"[]", "7", "[7]", "[[1]]", "[[1, 2, 3]]", "[[1, -1]]", "[[1, 0.5]]",
                            "[[1, 2], [1, 2]]", "[[1, 99999999999]]", "[[\"1\", 2]]"}) {
    expect_refused({with(heads).c_str(), {path.c_str(), list.c_str()}});
  }
  expect_refused({with("[[4, 0]]").c_str(), {path.c_str(), "[4, 0] is asked", "before layer 4"}});
  expect_refused({with("[[1, 2]]", R"(, "scorer": "recency")").c_str(),
                  {"tokens.scorer: is recency, but a stage names heads"}});
  expect_refused({R"({"version": 1, "tokens": {"quota": 1.5}})", {"tokens.quota: found 1.5"}});
  expect_refused({R"({"version": 1, "tokens": {"queries": "sum"}})", {"tokens.queries", "one of mean, max"}});
}

TEST(PolicyFromJson, Stages) {
  const BadJson cases[] = {
      {R"({"version": 1, "tokens": {"stages": [{"keep": 1}]}})", {"tokens.stages[0].layer: is missing"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 0, "keep": 1}]}})",
       {"tokens.stages[0].layer: found 0"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4.0, "keep": 1}]}})",
       {"layer: found 4.0", "an integer"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 18446744073709551615, "keep": 1}]}})",
       {"an integer"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4}]}})",
       {"tokens.stages[0] needs exactly one", "neither"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 1, "top_p": 1}]}})",
       {"exactly one", "both"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 0}]}})",
       {"tokens.stages[0].keep: found 0, expected a number in (0, 1]"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 1.5}]}})", {"keep: found 1.5"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4, "top_p": -1}]}})", {"top_p: found -1"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": true}]}})", {"keep: found true"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 1}, {"layer": 4, "keep": 1}]}})",
       {"tokens.stages[1].layer is 4, after a stage at 4"}},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 1}, {"layer": 3, "keep": 1}]}})",
       {"tokens.stages[1].layer is 3, after a stage at 4"}},
  };
  for (const BadJson& c : cases) expect_refused(c);
}

TEST(PolicyFromJson, Ranges) {
  const struct {
    const char *key, *value, *expected;
  } cases[] = {
      {"window", "0", "tokens.window: found 0, expected an integer in 1.."},
      {"window", "2.5", "an integer"},
      {"window", "4294967296", "an integer in 1..2147483647"},
      {"pool", "0", "tokens.pool: found 0"},
      {"pool", "4", "tokens.pool: found 4, expected an odd number"},
      {"recency_mix", "1.1", "tokens.recency_mix: found 1.1, expected a number in [0, 1]"},
      {"recency_mix", "-0.1", "tokens.recency_mix: found -0.1"},
      {"heads", "\"sum\"", "tokens.heads: found \"sum\", expected one of max, mean"},
      {"positions", "\"own\"", "expected one of original, compact"},
      {"kv", "null", "tokens.kv: found null, expected a string"},
      {"seed", "-1", "tokens.seed: found -1"},
      {"seed", "0.5", "tokens.seed: found 0.5"},
      {"protect_head", "-1", "tokens.protect_head: found -1"},
      {"protect_tail", "{\"min\": -1}", "tokens.protect_tail.min: found -1"},
      {"protect_tail", "{\"share\": 2}", "tokens.protect_tail.share: found 2"},
      {"scorer", "\"magic\"", "tokens.scorer: unknown scorer \"magic\"; known: attention, recency"},
      {"scorer", "\"learned\"", "tokens.scorer_file: is missing; the scorer learned needs it"},
      {"scorer_file", "\"\"", "tokens.scorer_file: found \"\""},
      {"scorer_file", "3", "tokens.scorer_file: found 3, expected a file name or null"},
  };
  for (const auto& c : cases) {
    const std::string json = fmt::format(R"({{"version": 1, "tokens": {{"{}": {}}}}})", c.key, c.value);
    expect_refused({json.c_str(), {c.expected}});
  }
}

TEST(PolicyFromJson, NonFiniteNumbersAreRefused) {
  for (const double value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const Json json = {{"version", 1}, {"tokens", {{"recency_mix", value}}}};
    expect_error(ErrorCode::kBadFormat, "tokens.recency_mix", [&] { policy_from_json(json, "p.json"); });
  }
}

TEST(PolicyFromJson, TheOracleIsForExperiments) {
  EXPECT_EQ(read(R"({"version": 1, "tokens": {"scorer": "oracle"}})").tokens.scorer, ScorerKind::kOracle);
}

AttentionPolicy attention(const std::string& section) {
  return read(R"({"version": 1, "attention": )" + section + "}").attention;
}

TEST(AttentionSection, ReadsEveryKey) {
  const AttentionPolicy pooled = attention(R"({"selector": "pooled", "q_block": 16, "k_block": 48,
      "criterion": "max", "thresholds": [[0.5], [0.25, 0.125]], "sink_tokens": 3, "local_tokens": 5,
      "dense_last_tokens": 7, "dense_first_layers": 1, "mean_correction": true, "group_union": true,
      "decode": "selected", "pool": 12, "variance": true, "query_stride": 4, "gate": "off"})");
  EXPECT_EQ(pooled.selector, SelectorKind::kPooled);
  EXPECT_EQ(pooled.rule.estimator, BlockEstimator::kPooled);
  EXPECT_EQ(pooled.rule.criterion, BlockCriterion::kMaximum);
  EXPECT_EQ(pooled.rule.q_block, 16);
  EXPECT_EQ(pooled.rule.k_block, 48);
  EXPECT_EQ(pooled.rule.pool, 12);
  EXPECT_TRUE(pooled.rule.variance);
  EXPECT_EQ(pooled.rule.query_stride, 4);
  EXPECT_EQ(pooled.rule.sink_tokens, 3);
  EXPECT_EQ(pooled.rule.local_tokens, 5);
  EXPECT_TRUE(pooled.rule.group_union);
  EXPECT_TRUE(pooled.rule.mean_correction);
  EXPECT_EQ(pooled.thresholds, (std::vector<std::vector<float>>{{0.5f}, {0.25f, 0.125f}}));
  EXPECT_EQ(pooled.dense_last_tokens, 7);
  EXPECT_EQ(pooled.dense_first_layers, 1);
  EXPECT_EQ(pooled.decode, DecodeMode::kSelected);
  EXPECT_FALSE(pooled.gate);
  EXPECT_EQ(attention(R"({"selector": "antidiagonal", "stride": 4})").rule.stride, 4);
}

TEST(AttentionSection, TheSelectorFixesTheRule) {
  const struct {
    const char* name;
    SelectorKind selector;
    BlockEstimator estimator;
    BlockCriterion criterion;
    float threshold;
  } cases[] = {
      {"exact_mass", SelectorKind::kExactMass, BlockEstimator::kExact, BlockCriterion::kMass, 0.95f},
      {"threshold", SelectorKind::kThreshold, BlockEstimator::kExact, BlockCriterion::kMaximum, 0.01f},
      {"antidiagonal", SelectorKind::kAntidiagonal, BlockEstimator::kAntidiagonal, BlockCriterion::kMass,
       0.95f},
      {"pooled", SelectorKind::kPooled, BlockEstimator::kPooled, BlockCriterion::kMass, 0.95f},
      {"vertical_slash", SelectorKind::kVerticalSlash, BlockEstimator::kVerticalSlash, BlockCriterion::kMass,
       0.95f},
      {"local", SelectorKind::kLocal, BlockEstimator::kNone, BlockCriterion::kMass, 0.95f},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    const AttentionPolicy policy = attention(fmt::format(R"({{"selector": "{}"}})", c.name));
    EXPECT_EQ(policy.selector, c.selector);
    EXPECT_EQ(policy.rule.estimator, c.estimator);
    EXPECT_EQ(policy.rule.criterion, c.criterion);
    EXPECT_EQ(policy.thresholds, (std::vector<std::vector<float>>{{c.threshold}}));
    EXPECT_TRUE(policy.gate);
    EXPECT_STREQ(selector_name(policy.selector), c.name);
  }
  EXPECT_EQ(attention(R"({"selector": "pooled", "criterion": "max"})").thresholds[0][0], 0.01f);
}

TEST(AttentionSection, DefaultsAreWritten) {
  const Policy policy = read(R"({"version": 1, "attention": {"selector": "pooled"}})");
  EXPECT_FALSE(policy.dense());
  EXPECT_EQ(
      policy_to_json(policy).at("attention"),
      Json::parse(
          R"({"selector": "pooled", "q_block": 32, "k_block": 32, "pool": 16, "outliers": 0, "variance": false,
      "query_stride": 1, "criterion": "sum", "thresholds": 0.95, "sink_tokens": 16, "local_tokens": 64,
      "dense_last_tokens": 64, "dense_first_layers": 0, "mean_correction": false, "group_union": false,
      "decode": "dense", "gate": "measured"})"));
  EXPECT_EQ(policy_to_json(Policy{}).at("attention"), Json::parse(R"({"selector": "dense"})"));
}

// A random section that is right: what it says must survive being written and read.
Json random_attention(std::mt19937& random) {
  const auto below = [&](std::uint32_t n) { return static_cast<std::int64_t>(random() % n); };
  const auto share = [&] { return static_cast<double>(1 + below(1000)) / 1000.0; };
  const char* selectors[] = {"exact_mass", "threshold", "antidiagonal", "pooled", "vertical_slash", "local"};
  const std::string selector = selectors[below(6)];
  const std::int64_t unit = 1 + below(16);
  Json json = {{"selector", selector},
               {"q_block", unit * (1 + below(8))},
               {"k_block", unit * (1 + below(8))},
               {"sink_tokens", below(100)},
               {"local_tokens", below(100)},
               {"dense_last_tokens", below(100)},
               {"dense_first_layers", below(3)},
               {"mean_correction", below(2) == 1},
               {"group_union", below(2) == 1},
               {"decode", selector == "vertical_slash" || below(2) == 1 ? "dense" : "selected"},
               {"gate", below(2) == 1 ? "off" : "measured"}};
  if (selector == "antidiagonal") json["stride"] = unit;
  if (selector == "pooled") {
    json["pool"] = unit;
    json["outliers"] = std::min(below(5), unit - 1);
    json["variance"] = json["outliers"] == 0 && below(2) == 1;
    json["query_stride"] = 1 + below(40);
  }
  if (selector == "local") return json;
  json["criterion"] = selector == "threshold" || (selector == "pooled" && below(2) == 1) ? "max" : "sum";
  json["thresholds"] = share();
  if (below(2) == 1) {
    json["thresholds"] = Json::array();
    for (int layer = 0; layer < 3; ++layer) {
      json["thresholds"].push_back(below(2) == 1 ? Json{share()} : Json{share(), share()});
    }
  }
  return json;
}

TEST(AttentionSection, RandomOnesRoundTrip) {
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    const Json section = random_attention(random);
    SCOPED_TRACE(section.dump());
    const Policy policy = policy_from_json({{"version", 1}, {"attention", section}}, "p.json");
    const Json written = policy_to_json(policy);
    EXPECT_EQ(written.at("attention"), section);
    EXPECT_EQ(policy_to_json(policy_from_json(written, "q.json")), written);
    EXPECT_NO_THROW(check_policy(policy, {"m", "", 3, 2}, "p.json"));
  }
}

TEST(AttentionSection, FaultsNameFileAndKey) {
  const struct {
    const char *section, *expected;
  } cases[] = {
      {R"([])", "attention is [], expected an object"},
      {R"({"selector": "magic"})", "attention.selector: found \"magic\", expected one of dense, exact_mass"},
      {R"({"selector": 1})", "attention.selector: found 1, expected a string"},
      {R"({"q_block": 16})", "attention.q_block: the selector dense has no such setting"},
      {R"({"selector": "dense", "gate": "off"})", "attention.gate: the selector dense has no such"},
      {R"({"selector": "pooled", "stride": 8})", "attention.stride: the selector pooled has no such setting"},
      {R"({"selector": "antidiagonal", "pool": 8})", "attention.pool: the selector antidiagonal has no such"},
      {R"({"selector": "exact_mass", "variance": true})", "attention.variance: the selector exact_mass"},
      {R"({"selector": "threshold", "query_stride": 1})", "attention.query_stride: the selector threshold"},
      {R"({"selector": "local", "thresholds": 0.5})", "attention.thresholds: the selector local has no such"},
      {R"({"selector": "local", "criterion": "sum"})", "attention.criterion: the selector local has no such"},
      {R"({"selector": "exact_mass", "criterion": "max"})",
       "attention.criterion: the selector exact_mass goes by sum"},
      {R"({"selector": "threshold", "criterion": "sum"})", "the selector threshold goes by max"},
      {R"({"selector": "antidiagonal", "criterion": "max"})", "the selector antidiagonal goes by sum"},
      {R"({"selector": "vertical_slash", "criterion": "max"})", "the selector vertical_slash goes by sum"},
      {R"({"selector": "pooled", "criterion": "mean"})", "found \"mean\", expected one of sum, max"},
      {R"({"selector": "pooled", "q_block": 0})",
       "attention.q_block: found 0, expected an integer in 1..1024"},
      {R"({"selector": "pooled", "k_block": 1025})", "attention.k_block: found 1025"},
      {R"({"selector": "pooled", "pool": 12})", "attention.pool: 12 does not divide attention.k_block 32"},
      {R"({"selector": "pooled", "k_block": 8})", "attention.pool: 16 does not divide attention.k_block 8"},
      {R"({"selector": "antidiagonal", "stride": 5})",
       "attention.stride: 5 does not divide attention.q_block 32"},
      {R"({"selector": "antidiagonal", "q_block": 8, "k_block": 12})",
       "attention.stride: 8 does not divide attention.k_block 12"},
      {R"({"selector": "pooled", "query_stride": 0})", "attention.query_stride: found 0"},
      {R"({"selector": "pooled", "sink_tokens": -1})", "attention.sink_tokens: found -1"},
      {R"({"selector": "pooled", "local_tokens": 1.5})", "attention.local_tokens: found 1.5"},
      {R"({"selector": "pooled", "dense_last_tokens": -1})", "attention.dense_last_tokens: found -1"},
      {R"({"selector": "pooled", "dense_first_layers": "all"})",
       "attention.dense_first_layers: found \"all\""},
      {R"({"selector": "pooled", "mean_correction": 1})", "mean_correction: found 1, expected true or false"},
      {R"({"selector": "pooled", "group_union": "no"})", "attention.group_union: found \"no\""},
      {R"({"selector": "pooled", "decode": "sparse"})", "found \"sparse\", expected one of dense, selected"},
      {R"({"selector": "vertical_slash", "decode": "selected"})", "attention.decode: vertical_slash chooses"},
      {R"({"selector": "pooled", "gate": true})", "attention.gate: found true, expected a string"},
      {R"({"selector": "pooled", "gate": "on"})", "found \"on\", expected one of measured, off"},
      {R"({"selector": "pooled", "thresholds": -0.1})",
       "attention.thresholds: found -0.1, expected numbers in [0, 1]"},
      {R"({"selector": "pooled", "outliers": 5})", "attention.outliers: found 5"},
      {R"({"selector": "pooled", "pool": 2, "outliers": 2})",
       "attention.outliers: 2 leave nothing of a pool of 2"},
      {R"({"selector": "pooled", "outliers": 1, "variance": true})", "attention.variance: not together with"},
      {R"({"selector": "local", "outliers": 1})", "attention.outliers: the selector local has no such"},
      {R"({"selector": "pooled", "thresholds": 1.5})", "attention.thresholds: found 1.5"},
      {R"({"selector": "pooled", "thresholds": 1e300})", "attention.thresholds: found 1e+300"},
      {R"({"selector": "pooled", "thresholds": "0.9"})", "attention.thresholds: found \"0.9\", expected a"},
      {R"({"selector": "pooled", "thresholds": []})", "attention.thresholds: found []"},
      {R"({"selector": "pooled", "thresholds": [0.9]})",
       "attention.thresholds: found 0.9, expected a number"},
      {R"({"selector": "pooled", "thresholds": [[]]})", "attention.thresholds: found []"},
      {R"({"selector": "pooled", "thresholds": [[0.9, true]]})", "attention.thresholds: found true"},
  };
  for (const auto& c : cases) {
    const std::string json = fmt::format(R"({{"version": 1, "attention": {}}})", c.section);
    expect_refused({json.c_str(), {c.expected}});
  }
}

}  // namespace
}  // namespace winnow
