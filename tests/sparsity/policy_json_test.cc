// Policy files: what is read, what is refused and how, and that writing and reading give the same policy.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "sparsity/policy.h"
#include "support/format_testing.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

Policy read(const std::string& text) { return policy_from_json(Json::parse(text), "some/p.json"); }

constexpr const char* kFull = R"({
  "version": 1,
  "model": {"name": "m", "layers": 30, "shape_hash": "0123"},
  "tokens": {"stages": [{"layer": 3, "keep": 0.5}, {"layer": 16, "top_p": 0.9}],
             "scorer": "learned", "window": 32, "heads": "mean", "pool": 3, "recency_mix": 0.25,
             "scorer_file": "sub/../s.safetensors", "seed": 18446744073709551615,
             "protect_head": 1, "protect_tail": {"min": 2, "share": 0.05},
             "positions": "compact", "kv": "final"},
  "attention": {"selector": "dense"},
  "measured": {"kl": 0.01, "dce": null, "niah": 0.9, "second_question_niah": 0.8, "speedup": 1.5,
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
  EXPECT_EQ(tokens.heads, HeadReduction::kMean);
  EXPECT_EQ(tokens.pool, 3);
  EXPECT_EQ(tokens.recency_mix, 0.25);
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
  EXPECT_EQ(tokens,
            Json::parse(R"({"stages": [], "scorer": "attention", "window": 64, "heads": "max", "pool": 7,
      "recency_mix": 0.0, "scorer_file": null, "seed": 0, "protect_head": 4,
      "protect_tail": {"min": 16, "share": 0.1}, "positions": "original", "kv": "own"})"));
}

TEST(PolicyFromJson, AnAbsoluteScorerFileStays) {
  const Policy policy =
      read(R"({"version": 1, "tokens": {"scorer": "learned", "scorer_file": "/x/s.safetensors"}})");
  EXPECT_EQ(policy.tokens.scorer_file, "/x/s.safetensors");
}

TEST(PolicyToJson, RoundTrips) {
  for (const char* text : {kFull, R"({"version": 1})"}) {
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
      {"{}", {"version", "is missing, expected 1"}},
      {R"({"version": 2})", {"version", "found 2", "reads version 1 only"}, ErrorCode::kUnsupported},
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

TEST(PolicyFromJson, WhatThisReleaseCannotRun) {
  const BadJson cases[] = {
      {R"({"version": 1, "tokens": {"scorer": "oracle"}})",
       {"tokens.scorer", "oracle"},
       ErrorCode::kUnsupported},
      {R"({"version": 1, "attention": {"selector": "threshold"}})",
       {"attention.selector: \"threshold\"", "no block selection"},
       ErrorCode::kUnsupported},
      {R"({"version": 1, "attention": {"selector": "dense", "q_block": 16}})",
       {"attention.q_block", "no block selection"},
       ErrorCode::kUnsupported},
      {R"({"version": 1, "attention": {"selector": "magic"}})",
       {"attention.selector: found \"magic\"", "dense, exact_mass, threshold"}},
      {R"({"version": 1, "attention": {"selector": 1}})", {"attention.selector: found 1, expected a string"}},
  };
  for (const BadJson& c : cases) expect_refused(c);
}

}  // namespace
}  // namespace winnow
