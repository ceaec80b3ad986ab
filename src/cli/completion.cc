#include "cli/completion.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"

namespace winnow::cli {
namespace {

// Words to offer where CLI11 does not know what is possible; files are offered beside them.
struct Values {
  std::string_view option, words;
};
constexpr std::array kValues{Values{"--precision", "bf16 f32 int8"},
                             Values{"--device", "cpu cuda reference"},
                             Values{"--kv", "same q8"},
                             Values{"--model", "smollm2-135m"},
                             Values{"--policy", "dense keep09 keep08 keep07 auto"},
                             Values{"--policies", "dense keep09 keep08 keep07 auto"}};

std::string words_of(const OptionText& option) {
  if (!option.choices.empty()) return fmt::format("{}", fmt::join(option.choices, " "));
  for (const Values& values : kValues) {
    if (std::find(option.names.begin(), option.names.end(), values.option) != option.names.end()) {
      return std::string(values.words);
    }
  }
  return "";
}

std::string last_word(const std::string& name) { return name.substr(name.rfind(' ') + 1); }

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string single_quoted(const std::string& text) { return "'" + replaced(text, "'", R"('\'')") + "'"; }

// Every command of the tree, the program first.
template <class Function>
void each_command(const CommandTree& command, const Function& function) {
  function(command);
  for (const CommandTree& sub : command.subcommands) each_command(sub, function);
}

template <class Part>
std::string joined_names(const std::vector<Part>& commands) {
  std::string names;
  for (const Part& command : commands) names += (names.empty() ? "" : " ") + last_word(command.name);
  return names;
}

// ---- bash: no need of the package bash-completion

std::string bash_script(const CommandTree& program) {
  std::string commands, values, words;
  each_command(program, [&](const CommandTree& command) {
    if (&command != &program) commands += fmt::format("{}\"{}\"", commands.empty() ? "" : "|", command.name);
    std::string options = joined_names(command.subcommands), plain;
    for (const OptionText& option : command.options) {
      for (const std::string& name : option.names) {
        options += (options.empty() ? "" : " ") + name;
        if (option.value.empty()) continue;
        const std::string possible = words_of(option);
        if (possible.empty())
          plain += fmt::format("{}\"{} {}\"", plain.empty() ? "" : "|", command.name, name);
        else
          values += fmt::format("    \"{} {}\") words=\"{}\" ;;\n", command.name, name, possible);
      }
    }
    if (!plain.empty()) values += fmt::format("    {}) return ;;\n", plain);
    words += fmt::format("      \"{}\") words=\"{}\" ;;\n", command.name, options);
  });
  // COMPREPLY left empty: bash completes file names.
  return fmt::format(R"(# bash completion for winnow
_winnow() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD - 1]}}" command=winnow words="" i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$command ${{COMP_WORDS[i]}}" in
      {}) command="$command ${{COMP_WORDS[i]}}" ;;
    esac
  done
  case "$command $before" in
{}    *) case "$command" in
{}    esac ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o default -F _winnow winnow
)",
                     commands, values, words);
}

// ---- zsh

// In _arguments, brackets and colons of a description have a meaning, and colons of an action too.
std::string zsh_text(const std::string& text) {
  return replaced(replaced(replaced(text, "[", "("), "]", ")"), ":", "\\:");
}

std::string zsh_option(const OptionText& option) {
  std::string action;
  if (!option.value.empty()) {
    const std::string words = words_of(option);
    const std::string choose =
        words.empty()
            ? "_files"
            : fmt::format(R"zsh({{_alternative "words\:value\:({})" "files\:file\:_files"}})zsh", words);
    action = fmt::format(":{}:{}", zsh_text(option.value), choose);
  }
  const std::string what = fmt::format("[{}]{}", zsh_text(option.description), action);
  std::string lines;
  for (const std::string& name : option.names) {
    const std::string others = option.repeated ? "*" : fmt::format("({})", fmt::join(option.names, " "));
    lines += fmt::format(" \\\n    {}", single_quoted(others + name + what));
  }
  return lines;
}

std::string zsh_function(const std::string& command) { return "_" + replaced(command, " ", "_"); }

std::string zsh_command(const CommandTree& command) {
  std::string text = fmt::format("{}() {{\n  local line state\n  _arguments -C", zsh_function(command.name));
  for (const OptionText& option : command.options) text += zsh_option(option);
  if (command.subcommands.empty()) return text + " \\\n    '*:file:_files'\n}\n";
  text += " \\\n    '1: :->command' '*:: :->rest'\n  case $state in\n    command)\n      local -a commands=(";
  for (const CommandTree& sub : command.subcommands) {
    text += fmt::format("\n        {}",
                        single_quoted(last_word(sub.name) + ":" + replaced(sub.description, ":", "\\:")));
  }
  text += ")\n      _describe command commands ;;\n    rest) case $line[1] in\n";
  for (const CommandTree& sub : command.subcommands) {
    text += fmt::format("      {}) {} ;;\n", last_word(sub.name), zsh_function(sub.name));
  }
  return text + "    esac ;;\n  esac\n}\n";
}

std::string zsh_script(const CommandTree& program) {
  std::string text = "#compdef winnow\n# zsh completion for winnow\n";
  each_command(program, [&](const CommandTree& command) { text += zsh_command(command); });
  return text +
         "if [[ \"$funcstack[1]\" == _winnow ]]; then _winnow \"$@\"; else compdef _winnow winnow; fi\n";
}

// ---- fish

// Where a command's options and subcommands belong on the line.
std::string fish_condition(const CommandTree& command) {
  std::string condition, rest = command.name;
  while (true) {
    const std::size_t space = rest.find(' ');
    if (space == std::string::npos) break;
    rest = rest.substr(space + 1);
    condition += fmt::format("{}__fish_seen_subcommand_from {}", condition.empty() ? "" : "; and ",
                             rest.substr(0, rest.find(' ')));
  }
  if (command.subcommands.empty()) return condition;
  return fmt::format("{}not __fish_seen_subcommand_from {}", condition.empty() ? "" : condition + "; and ",
                     joined_names(command.subcommands));
}

std::string fish_option(const OptionText& option, const std::string& condition) {
  std::string line = fmt::format("complete -c winnow -n {}", single_quoted(condition));
  for (const std::string& name : option.names) {
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  }
  if (!option.value.empty()) {
    const std::string words = words_of(option);
    line += words.empty() ? " -r" : fmt::format(" -r -a {}", single_quoted(words));
  }
  return line + fmt::format(" -d {}\n", single_quoted(option.description));
}

std::string fish_script(const CommandTree& program) {
  std::string text = "# fish completion for winnow\n";
  each_command(program, [&](const CommandTree& command) {
    const std::string condition = fish_condition(command);
    for (const CommandTree& sub : command.subcommands) {
      text += fmt::format("complete -c winnow -f -n {} -a {} -d {}\n", single_quoted(condition),
                          last_word(sub.name), single_quoted(sub.description));
    }
    for (const OptionText& option : command.options) text += fish_option(option, condition);
  });
  return text;
}

}  // namespace

std::string completion_script(const CommandTree& program, const std::string& shell) {
  if (shell == "bash") return bash_script(program);
  if (shell == "zsh") return zsh_script(program);
  if (shell == "fish") return fish_script(program);
  fail(ErrorCode::kBadArgument, "{}: no completion for this shell; known: bash, zsh, fish", shell);
}

}  // namespace winnow::cli
