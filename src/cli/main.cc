// The program: picks the subcommand, and is the one place where an Error ends.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <new>

#include "cli/command.h"
#include "cli/ranks.h"
#include "core/bus_error.h"
#include "core/error.h"
#include "runtime/ranks.h"

namespace {

constexpr int kFailed = 1;
constexpr int kBadUsage = 2;

constexpr const char* kExamples = R"(Examples:
  winnow inspect smollm2-135m
  winnow run -m smollm2-135m -f report.txt -p "What was decided?" --policy keep08
  winnow run -m smollm2-135m -f report.txt -p "What was decided?" --policy keep08 --compare
  winnow profile prefill -m smollm2-135m --lengths 1024,4096 --policies dense,keep08

Results go to stdout, progress and messages to stderr. Exit code: 0 done, 1 failed, 2 bad usage.)";

int fail_with(int code, const char* message) {
  fmt::print(stderr, "winnow: {}\n", message);
  return code;
}

int run(const std::function<int()>& command) {
  try {
    const int code = command();
    // A full disk or closed pipe shows here at the latest; a result that did not arrive is a failure.
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return fail_with(kFailed, "cannot write to stdout");
    return code;
  } catch (const winnow::cli::UsageError& error) {
    return fail_with(kBadUsage, error.what());
  } catch (const winnow::Error& error) {
    return fail_with(kFailed, error.what());
  } catch (const std::bad_alloc&) {
    return fail_with(kFailed, "out of memory");
  } catch (const std::exception& error) {
    return fail_with(kFailed, fmt::format("unexpected: {}", error.what()).c_str());
  }
}

// GNU OpenMP lets an idle thread spin for milliseconds before it sleeps: on a machine with other work those
// spins eat the time slices the working thread needs, and a prefill takes ten times as long. Short spins cost
// nothing on an idle machine. The setting is read when the program is loaded, hence the restart; whoever sets
// either variable keeps their choice.
void restart_with_short_spins(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "5000", 1);
  execv("/proc/self/exe", argv);  // returns only if it failed: then run as we are
}

// A stream that was closed before the program began: the next file opened would take its number, and be
// written to in its place. Reading then finds an end, results cannot be written, messages are lost.
void fill_closed_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) < 0)
      ::open("/dev/null", stream == STDERR_FILENO ? O_WRONLY : O_RDONLY);  // the lowest number that is free
  }
}

// Rank 0 of those that mpirun started runs the command, and says what the others do.
int follow_or_lead(const winnow::cli::Command& command) {
  if (command.on_every_rank) return command.run();
  const auto ranks = winnow::cli::launched_ranks();
  if (ranks == nullptr || ranks->rank() == 0) return command.run();
  winnow::follow(ranks);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  fill_closed_streams();
  restart_with_short_spins(argv);
  std::signal(SIGXFSZ, SIG_IGN);  // a file over the limit is then an error like a full disk
  winnow::explain_bus_errors();
  CLI::App app{"winnow: long prompts made cheap by not computing what does not matter", "winnow"};
  app.set_version_flag("--version", "winnow " WINNOW_VERSION);
  app.require_subcommand(1);
  app.footer(kExamples);
  winnow::cli::Command command;
  winnow::cli::add_inspect(app, command);
  winnow::cli::add_run(app, command);
  winnow::cli::add_batch(app, command);
  winnow::cli::add_policy(app, command);
  winnow::cli::add_profile(app, command);
  winnow::cli::add_sparsity(app, command);
  winnow::cli::add_eval(app, command);
  winnow::cli::add_calibrate(app, command);
  winnow::cli::add_train(app, command);
  winnow::cli::add_report(app, command);
  winnow::cli::add_serve(app, command);
  winnow::cli::add_completion(app, command);
  winnow::cli::add_manual(app, command);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadUsage;  // 0: --help or --version
  }
  return run([&] { return follow_or_lead(command); });
}
