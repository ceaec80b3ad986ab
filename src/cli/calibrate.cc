// winnow calibrate: the fastest policy that loses no more than the user allows.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "calibrate/calibration.h"
#include "cli/command.h"
#include "cli/common.h"
#include "cli/interrupt.h"
#include "cli/measuring_texts.h"
#include "cli/provenance.h"
#include "cli/table.h"
#include "core/atomic_file.h"
#include "core/error.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

struct CalibrateOptions {
  ModelOptions model;
  CalibrationSettings settings;
  std::vector<std::string> text_files;
  std::string output, frontier;
  bool nearest = false, resume = true;
};

std::string journal_path(const CalibrateOptions& options) { return options.output + ".partial.jsonl"; }
std::string state_path(const CalibrateOptions& options) { return options.output + ".partial.json"; }

void remove_partial_files(const CalibrateOptions& options) {
  Journal::discard(journal_path(options));
  std::filesystem::remove(state_path(options));
}

json budget_json(const QualityBudget& budget) {
  json result = json::object();
  if (budget.max_kl) result["max_kl"] = *budget.max_kl;
  if (budget.max_dce) result["max_dce"] = *budget.max_dce;
  if (budget.min_niah) result["min_niah"] = *budget.min_niah;
  if (budget.min_speedup) result["min_speedup"] = *budget.min_speedup;
  return result;
}

std::string budget_text(const QualityBudget& budget) {
  std::string text;
  for (const auto& [name, value] : budget_json(budget).items()) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, value.dump());
  }
  return text;
}

json frontier_json(const CalibrationResult& result) {
  json rows = json::array();
  for (const Measured& measured : result.frontier) rows.push_back(to_json(measured));
  return rows;
}

void print_frontier(const CalibrationResult& result) {
  Table table({"policy", "set", "KL", "dCE", "niah", "speedup", "avgtok", "density", "n"});
  for (const Measured& m : result.frontier) {
    table.add_row({m.policy.name,
                   m.baseline   ? "baseline"
                   : m.held_out ? "held-out"
                                : "search",
                   fmt::format("{:.4f}", m.kl), fmt::format("{:+.4f}", m.dce),
                   m.needles > 0 ? fmt::format("{:.2f}", m.niah) : "-",
                   m.timed ? fmt::format("{:.2f}x", m.speedup) : "-", fmt::format("{:.3f}", m.avgtok),
                   fmt::format("{:.3f}", m.density), fmt::format("{}+{}", m.windows, m.needles)});
  }
  fmt::print("{}\n", table.to_string());
}

void print_recall(const CalibrationResult& result) {
  fmt::print("recall of a needle by layer's best head (last queries, 10% of the prompt):");
  for (const double recall : result.signal.recall_by_layer()) fmt::print(" {:.2f}", recall);
  fmt::print("\n\n");
}

std::string measured_text(const Measured& m) {
  const std::string error =
      m.kl_error ? fmt::format("+-{:.4f}", 1.96 * *m.kl_error) : "(too few windows for an interval)";
  std::string text =
      fmt::format("KL {:.4f} {}, dCE {:+.4f}, niah {:.2f}, {:.2f}x faster than dense at its length", m.kl,
                  error, m.dce, m.niah, m.speedup);
  if (m.second_question && m.second_question_dense) {
    text +=
        fmt::format(", second question {:.2f} (dense {:.2f})", *m.second_question, *m.second_question_dense);
  }
  return text + fmt::format(" ({} windows, {} needles, held out)", m.windows, m.needles);
}

std::optional<CalibrationResult> run_with_progress(Calibration& calibration,
                                                   const CalibrateOptions& options) {
  if (!options.resume) remove_partial_files(options);
  Journal journal(journal_path(options));
  Progress progress("calibrating", options.model.progress_style());
  const Interrupt interrupt;
  CalibrationOptions run;
  run.journal = &journal;
  run.state_file = state_path(options);
  run.baselines = !options.frontier.empty();
  run.progress = [&](double share, const std::string& note) { progress.update(share, note); };
  run.cancelled = [&] { return interrupt.requested(); };
  return calibration.run(run);
}

int calibrate(CalibrateOptions options) {
  check_writable(options.output);
  if (!options.frontier.empty()) check_writable(options.frontier);
  options.settings.texts = read_measuring_texts(options.text_files);
  options.settings.seed = options.model.seed;
  const auto engine = open_engine(options.model);
  Calibration calibration(*engine, options.settings);
  std::optional<CalibrationResult> result = run_with_progress(calibration, options);
  if (!result) {
    fmt::print(stderr, "interrupted: what is measured is kept; run the same command again to go on\n");
    return 1;
  }
  print_recall(*result);
  print_frontier(*result);
  const json origin = provenance(kFrontierSchema, *engine, options.model);
  if (!options.frontier.empty()) {
    json report = origin;
    report["command"] = "calibrate";
    report["settings"] = {{"length", options.settings.length},
                          {"search_windows", options.settings.search_windows},
                          {"search_needles", options.settings.search_needles},
                          {"held_out_windows", options.settings.held_out_windows},
                          {"held_out_needles", options.settings.held_out_needles}};
    report["met"] = result->met;
    report["chosen"] = result->best.policy.name;
    report["budget"] = budget_json(options.settings.budget);
    report["signal"] = to_json(result->signal);
    report["frontier"] = frontier_json(*result);
    write_file_atomically(options.frontier, dump_json(report, 2) + "\n");
  }
  const QualityBudget& budget = options.settings.budget;
  if (!result->met) {
    fmt::print("the budget ({}) cannot be met; the nearest is {}: {}\n", budget_text(budget),
               result->best.policy.name, measured_text(result->best));
    if (!options.nearest) {
      fmt::print(
          "no policy was written; run again with --nearest or a wider budget: what is measured is kept in {} "
          "and {}\n",
          journal_path(options), state_path(options));
      return 1;
    }
  } else {
    fmt::print("{}: {}\n", result->best.policy.name, measured_text(result->best));
  }
  result->policy.measured["machine"] = origin.value("machine", json());
  write_file_atomically(options.output, dump_json(policy_to_json(result->policy), 2) + "\n");
  remove_partial_files(options);
  fmt::print("wrote {}\n", options.output);
  return result->met ? 0 : 1;
}

constexpr const char* kFooter =
    R"(The budget is checked on texts and needles that nothing was chosen by; of several limits all hold. Without
--min-niah a policy must find 95% of the needles that dense finds. Started again after Ctrl-C with the same -o, it goes
on where it stopped. More: docs/quality.md

Examples:
  winnow calibrate -m smollm2-135m --max-kl 0.02 -o policy.json
  winnow calibrate -m model.gguf -f report1.txt -f report2.txt --max-dce 0.03 --frontier frontier.json -o policy.json)";

}  // namespace

void add_calibrate(CLI::App& app, Command& command) {
  auto options = std::make_shared<CalibrateOptions>();
  CLI::App* sub = app.add_subcommand("calibrate", "Find the fastest policy within a quality budget");
  add_model_options(*sub, options->model);
  QualityBudget& budget = options->settings.budget;
  const auto loss = CLI::Range(1e-6, 1000.0);
  sub->add_option("--max-kl", budget.max_kl, "KL(dense || policy) of the next token after the prompt, nats")
      ->check(loss);
  sub->add_option("--max-dce", budget.max_dce, "Rise of the cross-entropy after the prompt, nats")
      ->check(loss);
  sub->add_option("--min-niah", budget.min_niah, "Share of hidden numbers that are found")
      ->check(CLI::Range(0.0, 1.0));
  sub->add_option("--min-speedup", budget.min_speedup, "Times faster than dense to the first token")
      ->check(CLI::Range(1.0, 1000.0));
  sub->add_option("-f,--file", options->text_files,
                  "Texts to calibrate on, or - for stdin; default: those that come with winnow");
  sub->add_option("--length", options->settings.length, "Tokens of a prompt")
      ->check(CLI::Range(std::int64_t{320}, std::int64_t{1} << 30))
      ->capture_default_str();
  const auto count = CLI::Range(std::int64_t{1}, std::int64_t{10000});
  sub->add_option("--search-windows", options->settings.search_windows, "Windows to choose by")
      ->check(count)
      ->capture_default_str();
  sub->add_option("--search-needles", options->settings.search_needles, "Needle prompts to choose by")
      ->check(count)
      ->capture_default_str();
  sub->add_option("--held-out-windows", options->settings.held_out_windows, "Windows to judge by")
      ->check(count)
      ->capture_default_str();
  sub->add_option("--held-out-needles", options->settings.held_out_needles, "Needle prompts to judge by")
      ->check(count)
      ->capture_default_str();
  sub->add_option(
         "--frontier", options->frontier,
         "Write everything measured as JSON, with other scorers and evictions beside it (takes longer)")
      ->type_name("FILE");
  sub->add_flag("--nearest", options->nearest, "Write the nearest policy when the budget cannot be met");
  sub->add_flag("--resume,!--no-resume", options->resume,
                "Go on where an interrupted run with the same -o stopped (the default)");
  sub->add_option("-o,--output", options->output, "The policy file to write")->required()->type_name("FILE");
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return calibrate(*options); }; });
}

}  // namespace winnow::cli
