// Runs the winnow program, for the tests of the command line.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/scratch.h"

namespace winnow::cli_test {

using nlohmann::json;

inline std::string model_path(const std::string& name) {
  return std::string(WINNOW_TEST_DATA) + "/models/" + name;
}
inline std::string tiny_llama() { return model_path("tiny-llama.gguf"); }

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

struct Result {
  int code = -1;  // exit code; -1: ended by a signal
  std::string out, err;
};

// `environment` replaces the test's own when it is not empty.
inline Result run_program(std::vector<std::string> arguments, const std::string& input = "",
                          std::vector<std::string> environment = {}) {
  const Scratch scratch;
  scratch.write("in", input);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, scratch.file("in").c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, scratch.file("out").c_str(), O_WRONLY | O_CREAT,
                                   0600);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, scratch.file("err").c_str(), O_WRONLY | O_CREAT,
                                   0600);
  arguments.insert(arguments.begin(), WINNOW_PROGRAM);
  // A program under the thread sanitizer needs its list of false reports (tests/tsan.supp) wherever it runs.
  const char* sanitizer = std::getenv("TSAN_OPTIONS");
  if (!environment.empty() && sanitizer != nullptr)
    environment.push_back(std::string("TSAN_OPTIONS=") + sanitizer);
  std::vector<char*> argv, envp;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  for (std::string& variable : environment) envp.push_back(variable.data());
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  pid_t child = 0;
  int status = 0;
  Result result;
  const int failed = ::posix_spawn(&child, WINNOW_PROGRAM, &files, nullptr, argv.data(),
                                   environment.empty() ? ::environ : envp.data());
  posix_spawn_file_actions_destroy(&files);
  if (failed != 0 || ::waitpid(child, &status, 0) != child) {
    ADD_FAILURE() << "cannot run " << WINNOW_PROGRAM;
    return result;
  }
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  result.out = read_file(scratch.file("out"));
  result.err = read_file(scratch.file("err"));
  return result;
}

// A subcommand on the tiny model; one thread, as these runs are too short to share.
inline std::vector<std::string> on_tiny(std::vector<std::string> arguments,
                                        const std::vector<std::string>& more) {
  for (const char* argument : {"--threads", "1", "-m"}) arguments.push_back(argument);
  arguments.push_back(tiny_llama());
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

inline void expect_error(const Result& result, int code, const std::string& part) {
  EXPECT_EQ(result.code, code) << result.out << result.err;
  EXPECT_NE(result.err.find(part), std::string::npos) << "no \"" << part << "\" in: " << result.err;
}

// Two stages that fit the tiny model's six layers (the presets need more).
constexpr const char* kTwoStages =
    R"({"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 0.5}, {"layer": 4, "keep": 0.5}],
  "protect_tail": {"min": 4, "share": 0.0}, "protect_head": 1}})";

// Blocks small enough for tiny prompts, skipped whatever it costs.
constexpr const char* kLocalBlocks =
    R"({"version": 1, "attention": {"selector": "local", "q_block": 16, "k_block": 16, "sink_tokens": 4,
  "local_tokens": 16, "dense_last_tokens": 0, "gate": "off"}})";

// A prompt whose answer the tiny model does not end by itself within 32 tokens.
inline std::string golden_text() {
  return json::parse(read_file(model_path("tiny-llama/golden.json")))["text"];
}

inline std::string long_text(int words) {
  std::string text;
  for (int i = 0; i < words; ++i) text += (i % 7 == 0 ? "wind " : i % 3 == 0 ? "and " : "corn ");
  return text;
}

}  // namespace winnow::cli_test
