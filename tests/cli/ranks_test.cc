// --devices and --split: several CPU ranks of one program.
#include <sched.h>

#include <map>

#include "cli/kill_when.h"

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
  expect_error(run({"--devices", "cpu,cuda:0"}), 1, "--devices cpu,cuda:0: a model runs on GPUs or on CPUs");
  expect_error(run({"--devices", "cpu,cpu", "--kv", "q8"}), 1, "--kv q8: caches over several devices");
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

// Ctrl-C ends all ranks, and what any of them has measured is kept and said.
TEST_F(RanksTest, AnInterruptedEvaluationKeepsWhatAllRanksHaveMeasured) {
  const std::string text = scratch_.write("text.txt", long_text(3000)), output = scratch_.file("out.json");
  ::unsetenv("OMP_NUM_THREADS");
  RunningProgram program({"eval", "-m", tiny_llama(), "--devices", "cpu,cpu", "--text", text, "--lengths",
                          "400", "--tasks", "niah", "--n", "5000", "--policies", "dense", "-o", output});
  const auto samples = [&](const std::string& journal) {
    std::map<std::string, json> found;
    for (const std::string& line : lines_of(read_file(output + journal))) {
      const json sample = json::parse(line, nullptr, false);
      if (sample.is_object() && sample.contains("key")) found[sample["key"]] = sample["sample"];
    }
    return found;
  };
  std::map<std::string, json> others;  // rank 1's
  ASSERT_TRUE(program.runs_until([&] {
    others = samples(".partial.rank1.jsonl");
    return samples(".partial.jsonl").size() >= 2 && others.size() >= 2;
  })) << program.errors();
  program.send(SIGINT);
  const Result result = program.wait();
  const auto kept = samples(".partial.jsonl");
  expect_error(result, 1, "interrupted: " + std::to_string(kept.size()) + " of 5000 samples are kept");

  cpu_set_t cores;
  ASSERT_EQ(::sched_getaffinity(0, sizeof cores, &cores), 0);
  const std::string threads = std::to_string(std::max(1, CPU_COUNT(&cores) / 2)) + " thread";
  for (const auto& [key, sample] : others) {
    EXPECT_TRUE(kept.contains(key));
    const std::string device = sample["timed_on"];  // each rank has half of the cores
    EXPECT_NE(device.find(threads), std::string::npos) << device;
  }
}

TEST_F(RanksTest, AnEvaluationInOneProcessLeavesTheFilesOfOneOverRanksAlone) {
  const std::string text = scratch_.write("text.txt", long_text(3000)), output = scratch_.file("out.json");
  std::vector<std::string> arguments{"eval",      "-m",         tiny_llama(), "--text", text,
                                     "--lengths", "400",        "--tasks",    "niah",   "--n",
                                     "5000",      "--policies", "dense",      "-o",     output};
  const std::vector<std::string> alone = arguments;
  arguments.insert(arguments.end(), {"--devices", "cpu,cpu"});
  RunningProgram program(arguments);
  const std::string other = output + ".partial.rank1.jsonl";
  ASSERT_TRUE(program.runs_until([&] { return lines_of(read_file(other)).size() >= 2; })) << program.errors();
  expect_error(run_program(alone), 1, "another evaluation with the same output is at work");
  EXPECT_TRUE(std::filesystem::exists(other));
  program.send(SIGINT);
  expect_error(program.wait(), 1, "interrupted");
}

// What the ranks of a killed evaluation have measured is there for one that has fewer.
TEST_F(RanksTest, SamplesOfAllRanksOutliveThem) {
  const std::string text = scratch_.write("text.txt", long_text(3000)), output = scratch_.file("out.json");
  const auto eval = [&](const std::string& n) {
    return on_tiny({"eval"}, {"--text", text, "--lengths", "400", "--tasks", "niah", "--n", n, "--policies",
                              "dense", "-o", output});
  };
  std::vector<std::string> shared = eval("5000");
  shared.insert(shared.end(), {"--devices", "cpu,cpu,cpu"});
  const std::string third = output + ".partial.rank2.jsonl";
  kill_when(shared, [&] { return lines_of(read_file(third)).size() >= 4; });
  for (const char* other : {".partial.jsonl", ".partial.rank1.jsonl"})
    std::filesystem::remove(output + other);
  const Result alone = run_program(eval("2"));
  EXPECT_EQ(alone.code, 0) << alone.err;
  const std::size_t said = alone.err.find(" samples of an earlier run");
  ASSERT_NE(said, std::string::npos) << alone.err;
  EXPECT_GE(std::stoi(alone.err.substr(alone.err.rfind(' ', said - 1))), 3) << alone.err;
  EXPECT_FALSE(std::filesystem::exists(third));
}

}  // namespace
}  // namespace winnow::cli_test
