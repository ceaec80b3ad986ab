#include "cli/manual.h"

#include <fmt/format.h>

#include <string_view>

namespace winnow::cli {
namespace {

// Backslashes and dashes have a meaning of their own in roff, dots and quotes at the beginning of a line.
std::string roff(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool begins = i == 0 || text[i - 1] == '\n';
    if (begins && (text[i] == '.' || text[i] == '\'')) result += "\\&";
    if (text[i] == '\\')
      result += "\\e";
    else if (text[i] == '-')
      result += "\\-";
    else
      result += text[i];
  }
  return result;
}

std::string option_entry(const OptionText& option) {
  std::string names;
  for (const std::string& name : option.names) {
    names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", roff(name));
  }
  if (!option.value.empty())
    names += fmt::format("{}\\fI{}\\fR", names.empty() ? "" : " ", roff(option.value));
  if (option.repeated) names += " ...";
  std::string text = option.description;
  if (!option.choices.empty()) text += fmt::format("; one of {}", fmt::join(option.choices, ", "));
  if (!option.range.empty()) text += fmt::format("; in {}", option.range);
  if (!option.preset.empty()) text += fmt::format(" (default: {})", option.preset);
  return fmt::format(".TP\n{}\n{}\n", names, roff(text));
}

// As it is laid out in --help.
std::string verbatim(const std::string& text) {
  return text.empty() ? "" : fmt::format(".PP\n.nf\n{}\n.fi\n", roff(text));
}

std::string synopsis(const CommandTree& command) {
  if (!command.subcommands.empty()) {
    std::string text;
    for (const CommandTree& sub : command.subcommands) text += synopsis(sub);
    return text;
  }
  std::string line = fmt::format(".B {}\n[\\fIoptions\\fR]", roff(command.name));
  for (const OptionText& positional : command.positionals)
    line += fmt::format(" \\fI{}\\fR", roff(positional.value));
  return line + "\n.br\n";
}

std::string section(const CommandTree& command) {
  std::string text = fmt::format(".SS {}\n{}.\n", roff(command.name), roff(command.description));
  for (const OptionText& positional : command.positionals) text += option_entry(positional);
  for (const OptionText& option : command.options) text += option_entry(option);
  text += verbatim(command.footer);
  for (const CommandTree& sub : command.subcommands) text += section(sub);
  return text;
}

constexpr const char* kEnvironment = R"(.SH ENVIRONMENT
.TP
.B WINNOW_DATA_DIR
Folder with winnow's texts/ and policies/, in place of the installed one.
.TP
.B WINNOW_MODELS
Folder of the fetched demo models (default: $XDG_CACHE_HOME/winnow/models, ~/.cache/winnow/models).
.TP
.B WINNOW_API_KEY
The key that clients of \fBwinnow serve\fR must send.
.TP
.BR GOMP_SPINCOUNT ", " OMP_WAIT_POLICY
How threads wait; where neither is set, winnow sets the first to short spins.
.SH "SEE ALSO"
docs/policies.md, docs/evaluation.md, docs/server.md and docs/json.md in winnow's sources.
)";

}  // namespace

std::string manual_page(const CommandTree& program) {
  std::string text = fmt::format(".TH WINNOW 1 \"\" \"winnow {}\" \"User Commands\"\n", WINNOW_VERSION);
  text += fmt::format(".SH NAME\nwinnow \\- {}\n",
                      roff(program.description.substr(program.description.find(": ") + 2)));
  text += ".SH SYNOPSIS\n" + synopsis(program) + ".SH OPTIONS\n";
  for (const OptionText& option : program.options) text += option_entry(option);
  text += ".SH COMMANDS\n";
  for (const CommandTree& sub : program.subcommands) text += section(sub);
  return text + ".SH EXAMPLES\n" + verbatim(program.footer) + kEnvironment;
}

}  // namespace winnow::cli
