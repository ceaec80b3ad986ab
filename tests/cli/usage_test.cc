// Exit codes and messages of command lines that make no sense, or name what is not there.
#include "cli/program.h"

namespace winnow::cli_test {
namespace {

TEST(Usage, VersionAndHelp) {
  const Result version = run_program({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.rfind("winnow ", 0), 0u);
  for (const std::vector<std::string>& command : {std::vector<std::string>{},
                                                  {"inspect"},
                                                  {"run"},
                                                  {"batch"},
                                                  {"policy", "check"},
                                                  {"profile", "prefill"},
                                                  {"profile", "end2end"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back("--help");
    const Result help = run_program(arguments);
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.out.find("Example"), std::string::npos) << help.out;
    EXPECT_EQ(help.err, "");
  }
}

TEST(Usage, BadUsageIsTwo) {
  EXPECT_EQ(run_program({}).code, 2);
  EXPECT_EQ(run_program({"dance"}).code, 2);
  EXPECT_EQ(run_program({"policy"}).code, 2);
  EXPECT_EQ(run_program({"batch"}).code, 2);
  EXPECT_EQ(run_program(on_tiny({"run"}, {"-p", "a", "--no-such-option"})).code, 2);
  EXPECT_EQ(run_program(on_tiny({"run"}, {"-p", "a", "-n", "0"})).code, 2);
  EXPECT_EQ(run_program(on_tiny({"run"}, {"-p", "a", "-n", "many"})).code, 2);
  EXPECT_EQ(run_program(on_tiny({"run"}, {"-p", "a", "--temperature", "-1"})).code, 2);
  for (const char* seed : {"-1", "18446744073709551616", "1.5", "0x1", ""}) {
    expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--seed", seed})), 2, "--seed");
  }
  EXPECT_EQ(run_program({"policy", "check", "any.json", "--precision", "f32"}).code, 2);
  EXPECT_EQ(run_program(on_tiny({"profile", "prefill"}, {"--lengths", "1,x"})).code, 2);
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--device", "abacus"})), 2, "abacus");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--precision", "f17"})), 2,
               "f17: must be f32, bf16 or int8");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--kv", "q4"})), 2, "--kv q4: must be same or q8");
  expect_error(run_program(on_tiny({"run"}, {})), 2, "no prompt");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--compare"})), 2, "--policy");
  expect_error(run_program({"run", "-p", "a"}), 2, "--random-weights");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--random-weights", "qwen2-0.5b"})), 2,
               "one of the two");
}

TEST(Usage, WhatThisBuildLacksSaysSo) {
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--device", "cuda:63"})), 1, "--device cuda");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--device", "cuda:x"})), 2, "cuda:x");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--device", "cuda", "--precision", "int8"})), 1,
               "int8 is the CPU's");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--device", "cuda", "--kv", "q8"})), 1, "--kv q8");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--devices", "cpu,cpu", "--kv", "q8"})), 1,
               "--kv q8");
}

// Before anything is computed, and before a server says that it listens.
TEST(Usage, PoliciesThatCachesIn8BitsAreNotFor) {
  const Scratch scratch;
  const std::string policy = scratch.write(
      "selected.json", R"({"version": 1, "attention": {"selector": "pooled", "decode": "selected"}})");
  const std::string text = scratch.write("text.txt", "Corn grows in rows.");
  for (const char* command : {"inspect", "serve"}) {
    expect_error(run_program(on_tiny({command}, {"--policy", policy, "--kv", "q8"})), 1, "not with --kv q8");
  }
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--policy", policy, "--kv", "q8"})), 1,
               "not with --kv q8");
  expect_error(
      run_program(on_tiny({"eval"}, {"--text", text, "--policies", "dense," + policy, "--kv", "q8"})), 1,
      "not with --kv q8");
  expect_error(run_program(on_tiny({"profile", "end2end"}, {"--policies", "dense," + policy, "--kv", "q8"})),
               1, "not with --kv q8");
}

TEST(Usage, ModelsThatAreNotThere) {
  expect_error(run_program({"inspect", "no/such/model.gguf"}), 1, "no/such/model.gguf: no such file");
  expect_error(run_program({"run", "-m", "no-such-model", "-p", "a"}), 1, "no-such-model");
  expect_error(run_program({"inspect", "--random-weights", "elephant-9b"}), 1, "elephant-9b");
  const Scratch scratch;
  expect_error(run_program({"inspect", "smollm2-135m"}, "", {"WINNOW_MODELS=" + scratch.file("")}), 1,
               "scripts/get_model.sh smollm2-135m");
}

TEST(Usage, DemoModelIsFoundInItsFolder) {
  const Scratch scratch;
  const std::string placed = scratch.file("SmolLM2-135M-Instruct.Q4_1.gguf");
  std::filesystem::copy_file(tiny_llama(), placed);
  EXPECT_EQ(run_program({"inspect", "smollm2-135m"}, "", {"WINNOW_MODELS=" + scratch.file("")}).code, 0);
}

// Without messages there is still a result, and no file takes the place of a stream that was closed.
TEST(Usage, ClosedStreams) {
  const Scratch scratch;
  const std::string run =
      std::string(WINNOW_PROGRAM) + " run --threads 1 -p corn -n 2 --json -m " + tiny_llama();
  EXPECT_EQ(std::system((run + " >" + scratch.file("out") + " 2>&-").c_str()), 0);
  EXPECT_EQ(json::parse(read_file(scratch.file("out")))["prompt_tokens"], 3);
  const int closed = std::system((run + " >&- 2>" + scratch.file("err")).c_str());
  EXPECT_EQ(WEXITSTATUS(closed), 1);
  EXPECT_NE(read_file(scratch.file("err")).find("cannot write to stdout"), std::string::npos);
}

TEST(Usage, DamagedModels) {
  const Scratch scratch;
  const std::string whole = read_file(tiny_llama());
  const std::string cut = scratch.write("cut.gguf", whole.substr(0, whole.size() / 2));
  const std::string text = scratch.write("text.gguf", "this is no model");
  const std::string empty = scratch.write("empty.gguf", "");
  for (const std::string& path : {cut, text, empty}) {
    expect_error(run_program({"inspect", path}), 1, path);
    expect_error(run_program({"run", "-m", path, "-p", "a"}), 1, path);
  }
}

}  // namespace
}  // namespace winnow::cli_test
