// The manual page winnow(1), made from the command line itself.
#pragma once

#include <string>

#include "cli/command_tree.h"

namespace winnow::cli {

// In roff, for man.
std::string manual_page(const CommandTree& program);

}  // namespace winnow::cli
