#include "cli/program.h"

namespace winnow::cli_test {
namespace {

TEST(PolicyCheck, ShowsWhatIsKept) {
  const Scratch scratch;
  const std::string policy = scratch.write("policy.json", kTwoStages);
  const Result alone = run_program({"policy", "check", policy});
  EXPECT_EQ(alone.code, 0) << alone.err;
  EXPECT_NE(alone.out.find("valid"), std::string::npos);
  const Result fitted = run_program({"policy", "check", policy, "-m", tiny_llama()});
  EXPECT_EQ(fitted.code, 0) << fitted.err;
  EXPECT_NE(fitted.out.find("of 512"), std::string::npos) << fitted.out;
  EXPECT_NE(fitted.out.find("128"), std::string::npos) << fitted.out;
  const json report = json::parse(run_program({"policy", "check", policy, "-m", tiny_llama(), "--json"}).out);
  EXPECT_EQ(report["kept_by_stage"][0]["kept"], (json{256, 128}));
  EXPECT_EQ(report["valid"], true);
}

TEST(PolicyCheck, TakesWhatRunTakes) {
  const Result preset = run_program({"policy", "check", "keep08:recency", "--random-weights", "qwen2-0.5b"});
  EXPECT_EQ(preset.code, 0) << preset.err;
  EXPECT_NE(preset.out.find("keep08:recency: valid"), std::string::npos) << preset.out;
  EXPECT_NE(preset.out.find("scorer: recency"), std::string::npos) << preset.out;
  EXPECT_EQ(run_program({"policy", "check", "pooled=0.9"}).code, 0);
  for (const char* name : {"keep08", "auto"})
    expect_error(run_program({"policy", "check", name}), 1, "depends on the model, and none is named");
  expect_error(run_program({"policy", "check", "keep08", "-m", tiny_llama()}), 1,
               "needs a model of 7 layers or more");
  const Result piped = run_program({"policy", "check", "-"}, kTwoStages);
  EXPECT_EQ(piped.code, 0) << piped.err;
}

TEST(PolicyCheck, EveryCommandHasExamplesOfItsOwn) {
  for (const char* command : {"policy", "profile"}) {
    const Result help = run_program({command, "--help"});
    EXPECT_NE(help.out.find(std::string("Examples:\n  winnow ") + command), std::string::npos) << help.out;
  }
}

TEST(PolicyCheck, NamesWhatIsWrong) {
  const Scratch scratch;
  const std::vector<std::pair<std::string, std::string>> faults{
      {"no json", "JSON"},
      {R"({"tokens": {}})", "version"},
      {R"({"version": 3})", "version"},
      {R"({"version": 1, "token": {}})", "token"},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 1.5}]}})", "keep"},
      {R"({"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 0.5}], "scorer": "dice"}})", "dice"},
      {R"({"version": 1, "attention": {"selector": "local", "thresholds": 0.5}})", "attention.thresholds"}};
  for (const auto& [text, part] : faults) {
    const std::string path = scratch.write("policy.json", text);
    const Result result = run_program({"policy", "check", path});
    expect_error(result, 1, part);
    EXPECT_NE(result.err.find(path), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  }
  expect_error(run_program({"policy", "check", scratch.file("missing.json")}), 1, "missing.json");
}

TEST(PolicyCheck, AttentionSections) {
  const Scratch scratch;
  const std::string sparse = scratch.write(
      "sparse.json",
      R"({"version": 1, "attention": {"selector": "pooled", "thresholds": 0.9, "gate": "off"}})");
  const Result result = run_program({"policy", "check", sparse, "-m", tiny_llama()});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("attention: pooled, threshold 0.9, blocks of 32 queries x 32 keys"),
            std::string::npos)
      << result.out;
  const json report = json::parse(run_program({"policy", "check", sparse, "--json"}).out);
  EXPECT_EQ(report["policy"]["attention"]["gate"], "off");
  const std::string table = scratch.write(
      "table.json", R"({"version": 1, "attention": {"selector": "pooled", "thresholds": [[0.9], [0.8]]}})");
  EXPECT_EQ(run_program({"policy", "check", table}).code, 0);
  expect_error(run_program({"policy", "check", table, "-m", tiny_llama()}), 1, "attention.thresholds has 2");
  std::string six_rows = "[0.9]";
  for (int layer = 1; layer < 6; ++layer) six_rows += ", [0.9, 0.8, 0.7, 0.6, 0.5]";
  const std::string heads =
      scratch.write("heads.json", R"({"version": 1, "attention": {"selector": "pooled", "thresholds": [)" +
                                      six_rows + "]}}");
  expect_error(run_program({"policy", "check", heads, "-m", tiny_llama()}), 1,
               "attention.thresholds[1] has 5");
}

TEST(PolicyCheck, MadeForAnotherModel) {
  const Scratch scratch;
  const std::string deep =
      scratch.write("deep.json", R"({"version": 1, "tokens": {"stages": [{"layer": 20, "keep": 0.5}]}})");
  EXPECT_EQ(run_program({"policy", "check", deep}).code, 0);
  expect_error(run_program({"policy", "check", deep, "-m", tiny_llama()}), 1, "20");
  const std::string other = scratch.write(
      "other.json",
      R"({"version": 1, "model": {"name": "other", "layers": 6, "shape_hash": "0000000000000000"}, "tokens": {"stages": []}})");
  expect_error(run_program({"policy", "check", other, "-m", tiny_llama()}), 1, "other");
}

TEST(PolicyCheck, LearnedScorerNeedsItsFile) {
  const Scratch scratch;
  const std::string policy = scratch.write("policy.json",
                                           R"({"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 0.5}],
  "scorer": "learned", "scorer_file": "scorer.safetensors"}})");
  EXPECT_EQ(run_program({"policy", "check", policy}).code, 0);
  expect_error(run_program({"policy", "check", policy, "-m", tiny_llama()}), 1, "scorer.safetensors");
}

}  // namespace
}  // namespace winnow::cli_test
