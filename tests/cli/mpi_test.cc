// The program as mpirun starts it, with the flags of one process: one model over the ranks, and evaluations
// whose items they share. The options of mpirun are Open MPI's.
#include <map>

#include "cli/running_program.h"

namespace winnow::cli_test {
namespace {

class OverMpi : public testing::Test {
 protected:
  void SetUp() override {
    if (mpirun_[0].empty()) GTEST_SKIP() << "built without MPI";
    for (const char* allowed : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
                                "OMPI_MCA_mpi_yield_when_idle", "OMPI_MCA_rmaps_base_oversubscribe"})
      ::setenv(allowed, "1", 1);
    ::setenv("OMPI_MCA_plm_rsh_agent", "/bin/false", 1);
    ::setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
  }
  std::vector<std::string> eval(const std::string& n, const std::string& output) const {
    return on_tiny({"eval"}, {"--text", text_, "--lengths", "300", "--windows", "4", "--n", n, "--tasks",
                              "kl,niah", "--policies", "dense," + policy_, "-o", output});
  }
  static void expect_same_rows(const json& found, const json& expected) {
    ASSERT_EQ(found["results"].size(), expected["results"].size());
    for (std::size_t i = 0; i < expected["results"].size(); ++i) {
      for (const char* key : {"policy", "task", "value", "n"})
        EXPECT_EQ(found["results"][i][key], expected["results"][i][key]) << i << key;
    }
  }

  Scratch scratch_;
  std::string policy_ = scratch_.write("two.json", kTwoStages);
  std::string text_ = scratch_.write("text.txt", long_text(3000));
  std::vector<std::string> mpirun_{WINNOW_MPIRUN, "-n", "2", "--bind-to", "none"};
};

TEST_F(OverMpi, AnswersAreThoseOfOneProcess) {
  const std::string prompts = scratch_.write("prompts.jsonl", json{{"prompt", long_text(60)}}.dump() + "\n");
  int made = 0;
  const auto answer = [&](const std::vector<std::string>& more, const std::vector<std::string>& launcher) {
    const std::string output = scratch_.file("answers" + std::to_string(made++) + ".jsonl");
    std::vector<std::string> arguments =
        on_tiny({"batch", prompts}, {"-o", output, "-n", "8", "--policy", policy_, "--precision", "f32"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = RunningProgram(arguments, launcher).wait();
    EXPECT_EQ(result.code, 0) << result.err;
    return json::parse(read_file(output), nullptr, false);
  };
  const json alone = answer({}, {});
  for (const char* split : {"tensor", "layers"}) {
    const json shared = answer({"--split", split}, mpirun_);
    EXPECT_EQ(shared["run"]["devices"], 2);
    for (const char* key : {"tokens", "kv_lens", "prompt_tokens"}) EXPECT_EQ(shared[key], alone[key]) << key;
  }
}

TEST_F(OverMpi, AnEvaluationsRowsAreThoseOfOneProcess) {
  const std::string alone = scratch_.file("alone.json"), shared = scratch_.file("shared.json");
  ASSERT_EQ(run_program(eval("4", alone)).code, 0);
  const Result result = RunningProgram(eval("4", shared), mpirun_).wait();
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err.find("has ended"), std::string::npos) << result.err;
  expect_same_rows(json::parse(read_file(shared)), json::parse(read_file(alone)));
}

// The other rank says which one is gone, and measures what it had begun.
TEST_F(OverMpi, WhatADeadRankHadToMeasureIsMeasured) {
  const std::string alone = scratch_.file("alone.json"), shared = scratch_.file("shared.json");
  ASSERT_EQ(run_program(eval("60", alone)).code, 0);
  std::vector<std::string> launcher = mpirun_;
  launcher.insert(launcher.begin() + 1, "--enable-recovery");  // or mpirun ends them all
  RunningProgram program(eval("60", shared), launcher);
  ASSERT_TRUE(program.runs_until([&] {
    return lines_of(read_file(shared + ".partial.rank1.jsonl")).size() >= 2;
  })) << program.errors();
  for (const pid_t process : program.children()) {
    const std::string variables = read_file("/proc/" + std::to_string(process) + "/environ");
    if (variables.find("OMPI_COMM_WORLD_RANK=1") != variables.npos) ::kill(process, SIGKILL);
  }
  const Result result = program.wait();
  EXPECT_NE(result.err.find("rank 1 has ended before its part was done"), std::string::npos) << result.err;
  expect_same_rows(json::parse(read_file(shared)), json::parse(read_file(alone)));
}

}  // namespace
}  // namespace winnow::cli_test
