// --devices and --split: several CPU ranks of one program.
#include "cli/program.h"

namespace winnow::cli_test {
namespace {

class RanksTest : public testing::Test {
 protected:
  json run_json(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = on_tiny({"run", "--json", "--precision", "f32"},
                                                 {"-p", long_text(60), "-n", "8", "--policy", policy_});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run_program(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.code == 0 ? json::parse(result.out) : json();
  }

  Scratch scratch_;
  std::string policy_ = scratch_.write("two.json", kTwoStages);
};

TEST_F(RanksTest, AnswerAsOneRankDoes) {
  const json alone = run_json({});
  EXPECT_EQ(alone["devices"], 1);
  for (const char* split : {"tensor", "layers"}) {
    const json shared = run_json({"--devices", "cpu,cpu", "--split", split});
    EXPECT_EQ(shared["devices"], 2);
    EXPECT_EQ(shared["device"], "cpu,cpu");
    EXPECT_EQ(shared["split"], split);
    for (const char* key : {"tokens", "kv_lens", "kv_bytes", "avgtok"})
      EXPECT_EQ(shared[key], alone[key]) << key;
    ASSERT_EQ(shared["stages"].size(), alone["stages"].size());
  }
}

TEST_F(RanksTest, WhatMakesNoSenseIsRefused) {
  const auto run = [&](const std::vector<std::string>& more) {
    return run_program(on_tiny({"run", "-p", "corn"}, more));
  };
  expect_error(run({"--devices", "cpu,tpu"}), 2, "--devices tpu");
  expect_error(run({"--devices", "cpu,cpu", "--split", "rows"}), 2, "--split");
  expect_error(run({"--devices", "cpu,cpu,cpu"}), 1, "use --split layers, or 2 devices");
  expect_error(run({"--split", "layers"}), 2, "--split layers: there is one device");
  expect_error(run({"--devices", "cpu", "--split", "tensor"}), 2, "--split tensor: there is one device");
  expect_error(run({"--devices", "cpu,cuda:99"}), 1, "rank 1");
  expect_error(run_program(on_tiny({"sparsity"}, {"--devices", "cpu,cpu"})), 2, "--devices");
}

TEST_F(RanksTest, AnEvaluationsItemsAreShared) {
  const std::string text = scratch_.write("text.txt", long_text(3000));
  const auto eval = [&](const std::vector<std::string>& more, const std::string& name) {
    const std::string output = scratch_.file(name);
    std::vector<std::string> arguments =
        on_tiny({"eval"}, {"--text", text, "--lengths", "300", "--windows", "4", "--tasks", "kl,ppl",
                           "--policies", "dense," + policy_, "-o", output});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run_program(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.err.find("has ended"), std::string::npos) << result.err;
    return result.code == 0 ? json::parse(read_file(output)) : json();
  };
  const json alone = eval({}, "alone.json"), shared = eval({"--devices", "cpu,cpu"}, "shared.json");
  ASSERT_EQ(shared["results"].size(), alone["results"].size());
  for (std::size_t i = 0; i < alone["results"].size(); ++i) {
    for (const char* key : {"policy", "task", "value", "n"}) {
      EXPECT_EQ(shared["results"][i][key], alone["results"][i][key]) << i << key;
    }
  }
  for (const char* file : {".partial.jsonl", ".partial.rank1.jsonl", ".partial.claims", ".partial.rank1"}) {
    EXPECT_FALSE(std::filesystem::exists(scratch_.file("shared.json") + file)) << file;
  }
  expect_error(run_program(on_tiny({"eval"}, {"--text", text, "--devices", "cpu,cpu"})), 2, "-o FILE");
}

}  // namespace
}  // namespace winnow::cli_test
