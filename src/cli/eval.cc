// winnow eval: what policies cost in quality, dense and sparse side by side on the same prompts.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "cli/command.h"
#include "cli/common.h"
#include "cli/interrupt.h"
#include "cli/measuring_texts.h"
#include "cli/provenance.h"
#include "cli/ranks.h"
#include "cli/table.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "eval/ablation.h"
#include "eval/evaluation.h"
#include "eval/item_claims.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

struct EvalOptions {
  ModelOptions model;
  EvaluationSettings settings;
  std::vector<std::string> text_files;
  std::string output;
  bool resume = true, as_json = false;
};

std::string value_text(const ResultRow& row) {
  const int digits = row.task == "ppl" ? 2 : 4;
  const std::string value = fmt::format("{:.{}f}", row.estimate.value, digits);
  if (!row.estimate.spread) return value;
  const Interval& ci95 = row.estimate.spread->ci95;
  return fmt::format("{} +-{:.{}f}", value, (ci95.high - ci95.low) / 2, digits);
}

// One table a length: policies down, tasks across.
class LengthTable {
 public:
  LengthTable(const std::vector<ResultRow>& rows, std::int64_t length) : length_(length) {
    for (const ResultRow& row : rows) {
      if (row.length != length) continue;
      if (std::find(tasks_.begin(), tasks_.end(), row.task) == tasks_.end()) tasks_.push_back(row.task);
      if (std::find(policies_.begin(), policies_.end(), row.policy) == policies_.end()) {
        policies_.push_back(row.policy);
      }
      cells_[{row.policy, row.task}] = &row;
      gated_ = gated_ || row.cost.gated > 0;
    }
  }

  std::string to_string() const {
    std::vector<std::string> header{fmt::format("at {} tokens", length_)};
    header.insert(header.end(), tasks_.begin(), tasks_.end());
    for (const char* name : {"TTFT ms", "speedup", "avgtok", "density", "KV"}) header.emplace_back(name);
    if (gated_) header.emplace_back("gated");
    Table table(header);
    for (const std::string& policy : policies_) table.add_row(row_of(policy));
    return table.to_string();
  }

 private:
  // Costs are those of the first task that has them: prompts of all tasks are about equally long.
  std::vector<std::string> row_of(const std::string& policy) const {
    std::vector<std::string> row{policy};
    const ResultRow* first = nullptr;
    for (const std::string& task : tasks_) {
      const auto found = cells_.find({policy, task});
      row.push_back(found == cells_.end() ? "-" : value_text(*found->second));
      if (first == nullptr && found != cells_.end()) first = found->second;
    }
    const CostSummary& cost = first->cost;
    row.push_back(cost.ttft_ms ? fmt::format("{:.0f}", *cost.ttft_ms) : "-");
    row.push_back(first->speedup ? fmt::format("{:.2f}x", *first->speedup) : "-");
    for (const double share : {cost.avgtok, cost.density, cost.kv_share})
      row.push_back(fmt::format("{:.3f}", share));
    if (gated_) row.push_back(fmt::format("{:.0f}%", 100 * cost.gated));
    return row;
  }

  std::int64_t length_;
  std::vector<std::string> tasks_, policies_;
  bool gated_ = false;  // some policy's gate computed attention in full
  std::map<std::pair<std::string, std::string>, const ResultRow*> cells_;
};

void print_tables(const Evaluation& evaluation, const RunResult& result) {
  const std::vector<ResultRow> rows = evaluation.rows(result);
  std::vector<std::int64_t> lengths;
  std::map<std::string, std::int64_t> counts;
  for (const ResultRow& row : rows) {
    if (std::find(lengths.begin(), lengths.end(), row.length) == lengths.end()) lengths.push_back(row.length);
    counts[row.task] = row.estimate.n;
  }
  for (const std::int64_t length : lengths) fmt::print("{}\n", LengthTable(rows, length).to_string());
  std::string items;
  for (const auto& [task, n] : counts) items += fmt::format("{}{} {}", items.empty() ? "" : ", ", task, n);
  fmt::print(
      "n: {}; +- is half of the 95% bootstrap interval over the items; fewer than {} are too few for one\n",
      items, kFewestForInterval);
  for (const std::string& note : evaluation.notes(rows)) fmt::print("note: {}\n", note);
}

std::string claims_prefix(const EvalOptions& options) { return options.output + ".partial"; }

std::string journal_path(const EvalOptions& options, int rank = 0) {
  return rank == 0 ? options.output + ".partial.jsonl"
                   : fmt::format("{}.partial.rank{}.jsonl", options.output, rank);
}

// The ranks but 0 that have left one, of this run or of an earlier one that had more of them.
std::vector<int> ranks_with_journals(const EvalOptions& options) {
  const std::filesystem::path output(options.output);
  const std::string prefix = output.filename().string() + ".partial.rank", suffix = ".jsonl";
  const std::filesystem::path folder = output.has_parent_path() ? output.parent_path() : ".";
  std::vector<int> ranks;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (!name.starts_with(prefix) || !name.ends_with(suffix)) continue;
    int rank = 0;
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), rank);
    if (rank > 0 && name == fmt::format("{}{}{}", prefix, rank, suffix)) ranks.push_back(rank);
  }
  if (error)
    fail(ErrorCode::kIo, "{}: cannot look for samples of other ranks: {}", folder.string(), error.message());
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

// What the other ranks have measured comes into rank 0's journal, and the journals go that no process writes
// any more.
void merge_journals(const EvalOptions& options, Journal& journal,
                    const std::function<bool(int rank)>& still_writes) {
  for (const int rank : ranks_with_journals(options)) {
    const bool discard = !still_writes(rank);  // asked first: nothing is added between reading and removing
    journal.learn(journal_path(options, rank), /*keep=*/true);
    if (discard) Journal::discard(journal_path(options, rank));
  }
}

// Rank 0's, with the samples of earlier runs of all ranks unless it starts over. Before the other ones of the
// `size` ranks look at it: what is there with their numbers is an earlier run's.
std::unique_ptr<Journal> open_journal(const EvalOptions& options, int size) {
  if (options.output.empty()) return nullptr;
  const std::string path = journal_path(options);
  const auto still_writes = [&](int rank) {
    return rank >= size && ItemClaims::at_work(claims_prefix(options), rank);
  };
  if (!options.resume) {
    Journal::discard(path);
    for (const int rank : ranks_with_journals(options)) {
      if (!still_writes(rank)) Journal::discard(journal_path(options, rank));
    }
  }
  auto journal = std::make_unique<Journal>(path);
  merge_journals(options, *journal, still_writes);
  if (journal->size() > 0) {
    fmt::print(stderr, "{}: {} samples of an earlier run; those that still apply are not measured again\n",
               path, journal->size());
  }
  return journal;
}

// Of a run in one process, which claims nothing: not beside ranks that write the same files.
std::unique_ptr<Journal> open_only_journal(const EvalOptions& options) {
  if (options.output.empty()) return nullptr;
  if (ItemClaims::at_work(claims_prefix(options), 0)) {
    fail(ErrorCode::kIo, "{}: another evaluation with the same output is at work", options.output);
  }
  return open_journal(options, 1);
}

// Rank N's part of an evaluation whose items several processes share. Its samples go to its own journal.
int eval_items(const EvalOptions& options, const RankOfLaunch& self) {
  ItemClaims claims(claims_prefix(options), self);
  const auto engine = open_engine(options.model);
  const Evaluation evaluation(*engine, options.settings);
  Journal journal(journal_path(options, self.rank));
  journal.learn(journal_path(options), /*keep=*/false);
  RunnerOptions runner;
  runner.journal = &journal;
  runner.take = [&](const std::string& item) { return claims.claim(item); };
  evaluation.run(runner);
  claims.finish();
  return 0;
}

void wait_for_ranks(ItemClaims& claims, const std::function<bool()>& cancelled) {
  for (const int rank : claims.wait_for_others(cancelled)) {
    fmt::print(stderr,
               "winnow: rank {} has ended before its part was done: what is missing is measured here\n",
               rank);
  }
}

RunResult run_with_progress(const Evaluation& evaluation, const EvalOptions& options, RunnerOptions runner) {
  Progress progress("evaluating", options.model.progress_style());
  runner.progress = [&](double share, const std::string& note) { progress.update(share, note); };
  return evaluation.run(runner);
}

// All samples, until Ctrl-C. Over ranks, `claims` are rank 0's: it measures its part, and then what the
// others have not; after Ctrl-C they end at once, and what all of them have measured is kept.
RunResult measure(const Evaluation& evaluation, const EvalOptions& options, Journal* journal,
                  std::optional<ItemRank>& shared, ItemClaims* claims) {
  const Interrupt interrupt;
  RunnerOptions runner;
  runner.journal = journal;
  runner.cancelled = [&] { return interrupt.requested(); };
  if (claims == nullptr) return run_with_progress(evaluation, options, runner);
  runner.take = [claims](const std::string& item) { return claims->claim(item); };
  if (!run_with_progress(evaluation, options, runner).cancelled) {
    claims->finish();
    wait_for_ranks(*claims, runner.cancelled);
  }
  if (shared->others && !interrupt.requested()) shared->others->wait();
  shared->others.reset();
  merge_journals(options, *journal, [&](int rank) {
    return rank < shared->self.size ? !claims->ended(rank)
                                    : ItemClaims::at_work(claims_prefix(options), rank);
  });
  runner.take = {};
  runner.only_known = interrupt.requested();
  return run_with_progress(evaluation, options, runner);
}

int report_interrupted(const RunResult& result, const Journal* journal) {
  const std::int64_t done = result.measured + result.resumed;
  if (journal == nullptr) {
    fail(ErrorCode::kBadArgument, "interrupted after {} of {} samples; with -o they would have been kept",
         done, result.total);
  }
  fmt::print(stderr, "interrupted: {} of {} samples are kept; run the same command again to go on\n", done,
             result.total);
  return 1;
}

int eval(EvalOptions options) {
  if (options.settings.tasks.empty()) options.settings.tasks = {"kl", "dce", "ppl", "top1", "niah"};
  check_task_names(
      options.settings.tasks);  // its faults, and those of the texts, show before the model is loaded
  options.settings.texts = read_measuring_texts(options.text_files);
  options.settings.seed = options.model.seed;
  if (!options.output.empty()) check_writable(options.output);
  if (shares_items(options.model) && options.output.empty())
    throw UsageError("over several ranks the result needs a file: -o FILE");
  auto shared = share_items(options.model, [&](const ItemRank& rank, const ModelOptions& model) {
    EvalOptions own = options;
    own.model = model;
    return eval_items(own, rank.self);
  });
  if (shared && shared->self.rank > 0) return eval_items(options, shared->self);
  std::unique_ptr<Journal> journal;
  std::optional<ItemClaims> claims;
  if (shared) {
    claims.emplace(claims_prefix(options), shared->self,
                   [&] { journal = open_journal(options, shared->self.size); });
  }
  const auto engine = open_engine(options.model);
  const Evaluation evaluation(*engine, options.settings);
  if (!shared) journal = open_only_journal(options);
  const RunResult result = measure(evaluation, options, journal.get(), shared, claims ? &*claims : nullptr);
  if (!result.finished()) return report_interrupted(result, journal.get());

  json report = provenance(kEvalSchema, *engine, options.model);
  report["command"] = "eval";
  report.update(evaluation.report(result));
  const std::string text = dump_json(report, 2) + "\n";
  if (options.as_json) {
    fmt::print("{}", text);
  } else {
    print_tables(evaluation, result);
  }
  std::fflush(stdout);
  if (journal == nullptr) return 0;
  write_file_atomically(options.output, text);
  journal->remove();
  if (claims) claims->remove();
  return 0;
}

constexpr const char* kFooter =
    R"(Tasks
  kl dce ppl top1 context_benefit   on the 256 tokens that follow a pruned context of --lengths minus 256 tokens
  kl_second_half                    all predictions in the second half of a window (policies that select blocks)
  niah niah_paraphrase              a number hidden in a text: RULER's wording; needle and question without a common word
  second_question                   two needles, the second asked for after the prompt was pruned for the first
  ruler_*                           niah_single_1..3, niah_multikey_1..3, niah_multivalue, niah_multiquery, vt, cwe, fwe
  longbench=FILE                    a LongBench data set in its published JSON lines format
Policies: as everywhere (dense, keep08, FILE, keep08:recency, ...), and beside them
  recency, attention, norm, random  alone: the stages of the other policies with that scorer, for comparison
  keep08:oracle                     scored by the attention the following text really pays: a ceiling, not a policy
  snapkv=0.3  h2o=0.3               dense prefill, then only that share of each layer's cached rows is kept
  "POLICY>snapkv=0.3"               the policy's prefill, then the same
Started again after Ctrl-C with the same -o, it goes on where it stopped. More: docs/evaluation.md

Examples:
  winnow eval -m smollm2-135m --tasks kl,dce,niah --policies dense,keep08,keep08:recency -o eval.json
  winnow eval -m smollm2-135m --tasks niah --n 60 --policies dense,my.json --ablate window -o window.json)";

void add_measuring_options(CLI::App& sub, EvalOptions& options) {
  EvaluationSettings& settings = options.settings;
  sub.add_option("--tasks", settings.tasks, "What to measure (default kl,dce,ppl,top1,niah)")->delimiter(',');
  sub.add_option("--policies", settings.policies, "Policies to compare")
      ->delimiter(',')
      ->default_str("dense,keep09,keep08,keep07");
  sub.add_option(
         "--text", options.text_files,
         "Texts for windows and haystacks: files, - for stdin, names of built-in texts; default: mix, "
         "all of these")
      ->delimiter(',');
  sub.add_option("--n", settings.questions, "Questions of each task")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  sub.add_option("--windows", settings.windows, "Windows of text, over all texts")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  sub.add_option("--lengths", settings.lengths, "Tokens of a window, or of a prompt with its answer")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  sub.add_option("--ablate", settings.ablations,
                 fmt::format("Add variants of every policy: {}", fmt::join(ablation_names(), ", ")))
      ->delimiter(',')
      ->check(CLI::IsMember(ablation_names()));
  sub.add_flag("--plain", settings.plain, "No chat template, even where the model has one");
}

}  // namespace

void add_eval(CLI::App& app, Command& command) {
  auto options = std::make_shared<EvalOptions>();
  options->settings.policies = {"dense", "keep09", "keep08", "keep07"};
  CLI::App* sub = app.add_subcommand("eval", "What policies cost in quality, beside dense");
  add_model_options(*sub, options->model);
  add_kv_option(*sub, options->model);
  add_rank_options(*sub, options->model);
  add_measuring_options(*sub, *options);
  sub->add_option("-o,--output", options->output, "Write the result as JSON")->type_name("FILE");
  sub->add_flag("--resume,!--no-resume", options->resume,
                "Go on where an interrupted run with the same -o stopped (the default)");
  sub->add_flag("--json", options->as_json, "The result as JSON on stdout instead of tables");
  sub->footer(kFooter);
  sub->callback([options, &command] {
    command = [options] { return eval(*options); };
    command.on_every_rank = options->model.split.empty();
  });
}

}  // namespace winnow::cli
