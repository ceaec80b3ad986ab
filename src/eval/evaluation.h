// Evaluation: everything `winnow eval` measures, set up from names and checked before any work; its results
// as JSON.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "eval/eval_policy.h"
#include "eval/eval_text.h"
#include "eval/runner.h"
#include "eval/summary.h"
#include "eval/task.h"
#include "eval/workload.h"

namespace winnow {

struct EvaluationSettings {
  std::vector<std::string> tasks;                // names, see task_names(), and "longbench=FILE"
  std::vector<std::string> policies;             // parse_eval_policy()
  std::vector<EvalPolicy> parsed_policies = {};  // and these, checked against the model
  std::vector<std::string> ablations;
  std::vector<EvalText> texts;
  std::vector<std::int64_t> lengths{4096};
  std::int64_t questions = 20, windows = 12;
  std::uint64_t seed = 0;
  bool plain = false;
};

// Every task but longbench=FILE.
std::vector<std::string> task_names();
// Error(kBadArgument) listing the tasks for a name that is none; opens no file.
void check_task_names(const std::vector<std::string>& names);

// One row of `results`.
struct ResultRow {
  std::string policy, task, metric;
  std::int64_t length = 0;
  Estimate estimate;
  CostSummary cost;
  std::optional<double> speedup;  // dense TTFT / this one's, same task and length
  bool oracle = false;
};
nlohmann::json to_json(const ResultRow& row);

class Evaluation {
 public:
  // Error for anything that cannot be run: unknown names, policies that do not fit, texts that are too short,
  // lengths beyond the context, malformed files. The engine must outlive it.
  Evaluation(const Engine& engine, EvaluationSettings settings);

  RunResult run(const RunnerOptions& options) const {
    return run_evaluation(engine_, policies_, workloads_, options);
  }

  // Of a finished run: a row for each policy, task and length, in this order of nesting from the outside:
  // length, task, policy.
  std::vector<ResultRow> rows(const RunResult& result) const;
  // {settings, policies, texts, results[], samples[], notes[]}.
  nlohmann::json report(const RunResult& result) const;

  const std::vector<EvalPolicy>& policies() const { return policies_; }
  // What a reader of these rows should know.
  std::vector<std::string> notes(std::span<const ResultRow> rows) const;
  const PromptEncoder& encoder() const { return encoder_; }

 private:
  void add_policies();
  void add_tasks();
  void add_windows(std::int64_t length);
  void add_questions(const Task& task, std::int64_t length);
  void check_context(std::int64_t length) const;

  const Engine& engine_;
  EvaluationSettings settings_;
  PromptEncoder encoder_;
  Essays essays_;
  std::vector<EvalPolicy> policies_;
  std::vector<std::unique_ptr<Task>> tasks_;
  std::vector<std::string> window_tasks_;  // measures asked for, in order
  std::vector<std::unique_ptr<Workload>> workloads_;
  std::vector<const Task*> workload_tasks_;  // [workloads]; null: windows
  std::vector<std::string> notes_;           // whatever is measured
};

}  // namespace winnow
