// The subcommands: each file adds its own to the program and says what to run once the command line is read.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace winnow::cli {

// Returns the exit code; an Error means 1.
struct Command {
  Command() = default;
  template <class Run>
  requires std::is_invocable_r_v<int, Run> Command(Run what) : run(std::move(what)) {}

  std::function<int()> run;
  bool on_every_rank = false;  // of those mpirun started; false: rank 0 runs it, the others follow()
};

// The command line makes no sense as a whole: exit 2. (Values CLI11 can judge alone it refuses itself.)
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Each sets `command` when its subcommand is the one on the command line.
void add_inspect(CLI::App& app, Command& command);
void add_run(CLI::App& app, Command& command);
void add_batch(CLI::App& app, Command& command);
void add_policy(CLI::App& app, Command& command);
void add_profile(CLI::App& app, Command& command);
void add_sparsity(CLI::App& app, Command& command);
void add_eval(CLI::App& app, Command& command);
void add_calibrate(CLI::App& app, Command& command);
void add_train(CLI::App& app, Command& command);
void add_report(CLI::App& app, Command& command);
void add_serve(CLI::App& app, Command& command);
void add_completion(CLI::App& app, Command& command);
void add_manual(CLI::App& app, Command& command);

}  // namespace winnow::cli
