// The subcommand train; main.cc adds it to the program.
#pragma once

#include "cli/command.h"

namespace winnow::cli {

void add_train(CLI::App& app, Command& command);

}  // namespace winnow::cli
