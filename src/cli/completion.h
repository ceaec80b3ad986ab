// Completion of winnow's command line for shells, made from the command line itself.
#pragma once

#include <string>

#include "cli/command_tree.h"

namespace winnow::cli {

// "bash", "zsh" or "fish": a script that the shell reads.
std::string completion_script(const CommandTree& program, const std::string& shell);

}  // namespace winnow::cli
