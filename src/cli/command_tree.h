// CommandTree: what the program's own command line looks like, as data: for completion and the manual.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

namespace winnow::cli {

struct OptionText {
  std::vector<std::string> names;    // "-m", "--model"; none: a positional
  std::string value;                 // "FILE", "INT"; empty: a flag
  std::vector<std::string> choices;  // where only these are possible
  std::string range;                 // "0 - 4096"
  std::string preset;                // its value when not given
  std::string description;
  bool repeated = false;  // takes several values
};

struct CommandTree {
  std::string name;  // with those above it: "winnow profile prefill"
  std::string description, footer;
  std::vector<OptionText> positionals, options;
  std::vector<CommandTree> subcommands;
};

CommandTree command_tree(const CLI::App& app);

}  // namespace winnow::cli
