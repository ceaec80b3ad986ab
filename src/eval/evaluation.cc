#include "eval/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/byte_reader.h"
#include "core/error.h"
#include "eval/ablation.h"
#include "eval/longbench.h"
#include "eval/niah_tasks.h"
#include "eval/question_workload.h"
#include "eval/ruler_list_tasks.h"
#include "eval/window_workload.h"
#include "runtime/kv_choice.h"

namespace winnow {
namespace {

using nlohmann::json;

constexpr std::string_view kLongBench = "longbench=";
constexpr const char* kSecondHalf = "kl_second_half";

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Null for a name that is none.
std::unique_ptr<Task> make_task(const std::string& name, const PromptEncoder& encoder, const Essays& essays) {
  if (name.starts_with(kLongBench)) return make_longbench(name.substr(kLongBench.size()));
  if (name == "niah") return make_niah(encoder, essays);
  if (name == "niah_paraphrase") return make_niah_paraphrase(encoder, essays);
  if (name == "second_question") return make_second_question(encoder, essays);
  if (name == "ruler_vt") return make_ruler_vt(encoder);
  if (name == "ruler_cwe") return make_ruler_cwe(encoder);
  if (name == "ruler_fwe") return make_ruler_fwe(encoder);
  for (const RulerNiah& settings : ruler_niah_tasks()) {
    if (name == settings.name) return make_ruler_niah(settings, encoder, essays);
  }
  return nullptr;
}

json or_null(const std::optional<double>& value) { return value ? json(*value) : json(); }

}  // namespace

std::vector<std::string> task_names() {
  std::vector<std::string> names = window_measures();
  for (const char* name : {"niah", "niah_paraphrase", "second_question"}) names.emplace_back(name);
  for (const RulerNiah& settings : ruler_niah_tasks()) names.push_back(settings.name);
  for (const char* name : {"ruler_vt", "ruler_cwe", "ruler_fwe"}) names.emplace_back(name);
  return names;
}

void check_task_names(const std::vector<std::string>& names) {
  const std::vector<std::string> known = task_names();
  std::set<std::string> seen;
  for (const std::string& name : names) {
    if (!name.starts_with(kLongBench) && !contains(known, name)) {
      fail(ErrorCode::kBadArgument, "task \"{}\": unknown; known: {}, longbench=FILE", printable(name),
           fmt::join(known, ", "));
    }
    if (!seen.insert(name).second) fail(ErrorCode::kBadArgument, "task {}: is named twice", printable(name));
  }
}

json to_json(const ResultRow& row) {
  const std::optional<Spread>& spread = row.estimate.spread;
  json result = {{"policy", row.policy},
                 {"task", row.task},
                 {"length", row.length},
                 {"metric", row.metric},
                 {"value", row.estimate.value},
                 {"ci95", spread ? json{spread->ci95.low, spread->ci95.high} : json()},
                 {"standard_error", spread ? json(spread->standard_error) : json()},
                 {"n", row.estimate.n},
                 {"prompt_tokens", row.cost.prompt_tokens},
                 {"ttft_ms", or_null(row.cost.ttft_ms)},
                 {"ttft_cold_ms", or_null(row.cost.ttft_cold_ms)},
                 {"speedup", or_null(row.speedup)},
                 {"avgtok", row.cost.avgtok},
                 {"density", row.cost.density},
                 {"attn_work", row.cost.attn_work},
                 {"kv_share", row.cost.kv_share},
                 {"gated", row.cost.gated}};
  if (row.oracle) result["oracle"] = "ceiling, not a policy";
  return result;
}

Evaluation::Evaluation(const Engine& engine, EvaluationSettings settings)
    : engine_(engine),
      settings_(std::move(settings)),
      encoder_(engine.tokenizer(), settings_.plain),
      essays_(settings_.texts) {
  check_task_names(settings_.tasks);
  for (const EvalText& text : settings_.texts) {
    if (text.content.find_first_not_of(" \t\r\n") == std::string::npos) {
      fail(ErrorCode::kBadArgument, "{}: is empty", text.name);
    }
  }
  if (settings_.texts.empty()) fail(ErrorCode::kBadArgument, "no text to evaluate on: name one with --text");
  add_policies();
  add_tasks();
  std::set<std::int64_t> lengths;
  for (const std::int64_t length : settings_.lengths) {
    if (!lengths.insert(length).second) fail(ErrorCode::kBadArgument, "length {}: is named twice", length);
  }
  for (const std::int64_t length : settings_.lengths) {
    check_context(length);
    if (!window_tasks_.empty()) add_windows(length);
    for (const auto& task : tasks_) add_questions(*task, length);
  }
}

void Evaluation::add_policies() {
  std::vector<EvalPolicy> asked = parse_eval_policies(settings_.policies, engine_.facts());
  asked.insert(asked.end(), settings_.parsed_policies.begin(), settings_.parsed_policies.end());
  for (const EvalPolicy& policy : asked) {
    policies_.push_back(policy);
    if (policy.dense()) continue;  // nothing to vary, and there for comparison
    for (const std::string& ablation : settings_.ablations) {
      for (EvalPolicy& variant : ablate(policy, ablation)) policies_.push_back(std::move(variant));
    }
  }
  std::set<std::string> names;
  for (const EvalPolicy& policy : policies_) {
    check_policy_fits_caches(policy.policy, engine_.kv_type());
    if (!names.insert(policy.name).second)
      fail(ErrorCode::kBadArgument, "policy {}: is named twice", policy.name);
    if (policy.oracle()) {
      notes_.push_back(
          fmt::format("{}: ceiling, not a policy: it is scored by the text that follows", policy.name));
    }
    if (!policy.timed()) notes_.push_back(fmt::format("{}: not timed (built for analysis)", policy.name));
  }
}

void Evaluation::add_tasks() {
  for (const std::string& name : settings_.tasks) {
    if (contains(window_measures(), name)) {
      window_tasks_.push_back(name);
      continue;
    }
    tasks_.push_back(make_task(name, encoder_, essays_));
    for (std::size_t i = 0; i + 1 < tasks_.size(); ++i) {
      if (tasks_[i]->name() == tasks_.back()->name()) {
        fail(ErrorCode::kBadArgument, "task {}: another one is {} as well: evaluate them one after the other",
             name, tasks_[i]->name());
      }
    }
  }
  if (contains(window_tasks_, kSecondHalf) &&
      std::none_of(policies_.begin(), policies_.end(), has_second_half)) {
    fail(ErrorCode::kBadArgument, "task {}: none of the policies selects blocks without dropping tokens",
         kSecondHalf);
  }
}

void Evaluation::check_context(std::int64_t length) const {
  if (length <= engine_.arch().context) return;
  fail(ErrorCode::kBadArgument, "--lengths {}: the model's context is {} tokens", length,
       engine_.arch().context);
}

void Evaluation::add_windows(std::int64_t length) {
  TextWindows windows = cut_windows(encoder_, settings_.texts, length, settings_.windows);
  if (windows.overlap) {
    notes_.push_back(fmt::format(
        "windows of {} tokens overlap: the texts are too short for {} of them, and intervals are too narrow",
        length, settings_.windows));
  }
  const WindowSettings window{length, contains(window_tasks_, kSecondHalf), texts_json(settings_.texts)};
  workloads_.push_back(make_window_workload(engine_, std::move(windows), window));
  workload_tasks_.push_back(nullptr);
}

void Evaluation::add_questions(const Task& task, std::int64_t length) {
  task.check_length(length);
  const QuestionSettings settings{length, settings_.questions, settings_.seed};
  workloads_.push_back(make_question_workload(engine_, encoder_, task, settings));
  workload_tasks_.push_back(&task);
}

std::vector<ResultRow> Evaluation::rows(const RunResult& result) const {
  std::vector<ResultRow> rows;
  for (std::size_t w = 0; w < workloads_.size(); ++w) {
    const Task* task = workload_tasks_[w];
    const auto& samples = result.samples[w];
    std::optional<double> dense_ttft;
    for (std::size_t p = 0; p < policies_.size(); ++p) {
      if (policies_[p].dense()) dense_ttft = summarize_cost(samples[p]).ttft_ms;
    }
    for (const std::string& measure : task ? std::vector<std::string>{"score"} : window_tasks_) {
      for (std::size_t p = 0; p < policies_.size(); ++p) {
        const auto value = estimate(samples[p], measure);
        if (!value) continue;
        ResultRow row{policies_[p].name,
                      task ? task->name() : measure,
                      task ? task->metric() : measure,
                      workloads_[w]->length(),
                      *value,
                      summarize_cost(samples[p]),
                      {},
                      policies_[p].oracle()};
        if (dense_ttft && row.cost.ttft_ms && *row.cost.ttft_ms > 0)
          row.speedup = *dense_ttft / *row.cost.ttft_ms;
        rows.push_back(std::move(row));
      }
    }
  }
  return rows;
}

std::vector<std::string> Evaluation::notes(std::span<const ResultRow> rows) const {
  std::vector<std::string> notes = notes_;
  std::set<std::pair<std::string, std::int64_t>> told;
  for (const ResultRow& row : rows) {
    if (row.cost.gated == 0 || !told.insert({row.policy, row.length}).second) continue;
    notes.push_back(fmt::format(
        "{} at {} tokens: {:.0f}% of the attention was computed in full, where that is no slower: "
        "measure its quality with \"gate\": \"off\"",
        row.policy, row.length, 100 * row.cost.gated));
  }
  return notes;
}

json Evaluation::report(const RunResult& result) const {
  const std::vector<ResultRow> rows = this->rows(result);
  json report = {{"settings",
                  {{"tasks", settings_.tasks},
                   {"lengths", settings_.lengths},
                   {"n", settings_.questions},
                   {"windows", settings_.windows},
                   {"seed", settings_.seed},
                   {"chat", encoder_.chat()},
                   {"ablate", settings_.ablations}}},
                 {"texts", texts_json(settings_.texts)},
                 {"policies", json::object()},
                 {"notes", notes(rows)},
                 {"results", json::array()},
                 {"samples", json::array()}};
  for (const EvalPolicy& policy : policies_) report["policies"][policy.name] = winnow::to_json(policy);
  for (const ResultRow& row : rows) report["results"].push_back(winnow::to_json(row));
  for (std::size_t w = 0; w < workloads_.size(); ++w) {
    for (std::size_t p = 0; p < policies_.size(); ++p) {
      for (std::size_t i = 0; i < result.samples[w][p].size(); ++i) {
        json sample = winnow::to_json(result.samples[w][p][i]);
        sample["policy"] = policies_[p].name;
        sample["task"] = workloads_[w]->name();
        sample["length"] = workloads_[w]->length();
        sample["item"] = i;
        report["samples"].push_back(std::move(sample));
      }
    }
  }
  return report;
}

}  // namespace winnow
