// winnow report: results of the other commands as one HTML file.
#include "report/report.h"

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/common.h"
#include "cli/provenance.h"
#include "core/atomic_file.h"
#include "core/error.h"

namespace winnow::cli {
namespace {

struct ReportOptions {
  std::vector<std::string> files;
  std::string output;
};

int report(const ReportOptions& options) {
  std::vector<ResultFile> results;
  std::vector<Picture> pictures;
  for (const std::string& path : options.files) {
    if (same_file(path, options.output))
      fail(ErrorCode::kBadArgument, "{}: is both a result and the report; name another output file", path);
    if (path.ends_with(".png")) {
      pictures.push_back({file_name(path), read_text(path)});
    } else {
      results.push_back(read_result(file_name(path), read_text(path)));
    }
  }
  write_file_atomically(options.output, render_report(results, pictures));
  fmt::print("wrote {}\n", options.output);
  return 0;
}

constexpr const char* kFooter =
    R"(FILES: JSON of winnow profile, sparsity, eval, calibrate (--frontier and policies), run --json
(--positions: with the tokens each stage dropped) and of the server; pictures of sparsity --maps.

Example:
  winnow report profile.json frontier.json eval.json sparsity.json maps/*.png -o report.html)";

}  // namespace

void add_report(CLI::App& app, Command& command) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* sub = app.add_subcommand("report", "Results as one HTML file, for the screen and for paper");
  sub->add_option("FILES", options->files, "Results to show (.json), pictures of attention (.png)")
      ->required();
  sub->add_option("-o,--output", options->output, "HTML file to write")->required();
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return report(*options); }; });
}

}  // namespace winnow::cli
