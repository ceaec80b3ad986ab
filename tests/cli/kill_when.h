// Kills the program in the middle of its work, for the tests of what goes on where it was stopped.
#pragma once

#include "cli/running_program.h"

namespace winnow::cli_test {

// Starts the program and kills it as soon as `enough()`.
template <class Enough>
void kill_when(std::vector<std::string> arguments, Enough enough) {
  RunningProgram program(std::move(arguments));
  program.runs_until(enough);
}

}  // namespace winnow::cli_test
