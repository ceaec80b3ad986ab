// A program that runs while the test does something to it or to the processes it has started.
#pragma once

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "cli/program.h"

namespace winnow::cli_test {

class RunningProgram {
 public:
  // `launcher`: what starts it, a path first, or nothing.
  explicit RunningProgram(const std::vector<std::string>& arguments,
                          const std::vector<std::string>& launcher = {}) {
    std::vector<std::string> words = launcher;
    words.push_back(WINNOW_PROGRAM);
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, scratch_.file("err").c_str(), O_WRONLY | O_CREAT,
                                     0600);
    const int failed = ::posix_spawn(&id_, argv[0], &files, nullptr, argv.data(), ::environ);
    posix_spawn_file_actions_destroy(&files);
    EXPECT_EQ(failed, 0) << "cannot run " << words[0];
    running_ = failed == 0;
  }
  ~RunningProgram() {
    if (!running_) return;
    send(SIGKILL);
    ::waitpid(id_, nullptr, 0);
  }
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;

  std::string errors() const { return read_file(scratch_.file("err")); }
  void send(int signal) const { ::kill(id_, signal); }

  // Whether it came to that before it ended.
  template <class Done>
  bool runs_until(Done done) {
    while (!done()) {
      if (ended(WNOHANG)) return false;
      ::usleep(1000);
    }
    return true;
  }
  Result wait() {
    if (running_) ended(0);
    return {WIFEXITED(status_) ? WEXITSTATUS(status_) : -1, "", errors()};
  }

  // The processes it has started, in the order of their numbers.
  std::vector<pid_t> children() const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != name.npos) continue;
      const std::string stat = read_file(entry.path() / "stat");  // PID (NAME) STATE PARENT ...
      std::istringstream rest(stat.substr(std::min(stat.size(), stat.rfind(')') + 1)));
      std::string state;
      pid_t parent = 0;
      if (rest >> state >> parent && parent == id_) found.push_back(std::stoi(name));
    }
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  bool ended(int how) {
    if (running_ && ::waitpid(id_, &status_, how) == id_) running_ = false;
    return !running_;
  }

  Scratch scratch_;
  pid_t id_ = -1;
  bool running_ = false;
  int status_ = 0;
};

}  // namespace winnow::cli_test
