// winnow completion, winnow manual: what the program says about its own command line.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/command_tree.h"
#include "cli/completion.h"
#include "cli/manual.h"

namespace winnow::cli {

void add_completion(CLI::App& app, Command& command) {
  auto shell = std::make_shared<std::string>();
  CLI::App* sub =
      app.add_subcommand("completion", "Print a script that completes winnow's command line in a shell");
  sub->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  sub->footer(
      "Examples:\n  source <(winnow completion bash)\n"
      "  winnow completion zsh > ~/.zfunc/_winnow        (a folder of $fpath)\n"
      "  winnow completion fish > ~/.config/fish/completions/winnow.fish");
  sub->callback([&app, shell, &command] {
    command = [&app, shell] {
      fmt::print("{}", completion_script(command_tree(app), *shell));
      return 0;
    };
  });
}

void add_manual(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("manual", "Print the manual page, for man");
  sub->footer("Example:\n  winnow manual | man -l -");
  sub->callback([&app, &command] {
    command = [&app] {
      fmt::print("{}", manual_page(command_tree(app)));
      return 0;
    };
  });
}

}  // namespace winnow::cli
