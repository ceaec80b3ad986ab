// Kills the program in the middle of its work, for the tests of what goes on where it was stopped.
#pragma once

#include <csignal>

#include "cli/program.h"

namespace winnow::cli_test {

// Starts the program and kills it as soon as `enough()`.
template <class Enough>
void kill_when(std::vector<std::string> arguments, Enough enough) {
  arguments.insert(arguments.begin(), WINNOW_PROGRAM);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = -1;
  const int failed = ::posix_spawn(&child, WINNOW_PROGRAM, &files, nullptr, argv.data(), ::environ);
  posix_spawn_file_actions_destroy(&files);
  ASSERT_EQ(failed, 0);
  while (!enough() && ::waitpid(child, nullptr, WNOHANG) == 0) ::usleep(1000);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

}  // namespace winnow::cli_test
