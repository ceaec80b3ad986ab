#include "cli/command_tree.h"

#include <CLI/CLI.hpp>

namespace winnow::cli {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end = 0; end != std::string::npos; begin = end + 1) {
    end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end == std::string::npos ? end : end - begin));
  }
  return parts;
}

// CLI11 puts what may be given behind the type: "TEXT:{a,b}", "INT:INT in [0 - 4096]", "FLOAT:POSITIVE".
void read_type(const std::string& type, OptionText& option) {
  const std::size_t colon = type.find(':');
  option.value = type.substr(0, colon);
  if (colon == std::string::npos) return;
  const std::string rest = type.substr(colon + 1);
  const std::size_t bracket = rest.find('[');
  if (rest.starts_with('{')) {
    option.choices = split(rest.substr(1, rest.size() - 2), ',');
  } else if (bracket != std::string::npos) {
    option.range = rest.substr(bracket + 1, rest.find(']', bracket) - bracket - 1);
  }
}

OptionText option_text(const CLI::Option& option) {
  OptionText text;
  for (const std::string& name : option.get_snames()) text.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) text.names.push_back("--" + name);
  text.description = option.get_description();
  text.preset = option.get_default_str();
  text.repeated = option.get_items_expected_max() > 1;
  if (option.get_items_expected_max() > 0) read_type(option.get_type_name(), text);
  return text;
}

CommandTree tree(const CLI::App& app, const std::string& above) {
  CommandTree command;
  command.name = above.empty() ? app.get_name() : above + " " + app.get_name();
  command.description = app.get_description();
  for (const CLI::Option* option : app.get_options()) {
    OptionText text = option_text(*option);
    if (option->get_positional()) {
      OptionText positional = text;
      positional.names.clear();
      positional.value = option->get_name(/*positional=*/true);
      command.positionals.push_back(std::move(positional));
    }
    if (!text.names.empty()) command.options.push_back(std::move(text));
  }
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    command.subcommands.push_back(tree(*sub, command.name));
  }
  command.footer =
      command.subcommands.empty() || above.empty() ? app.get_footer() : "";  // else its subcommands'
  return command;
}

}  // namespace

CommandTree command_tree(const CLI::App& app) { return tree(app, ""); }

}  // namespace winnow::cli
