// What policies cost: windows of a text, as winnow eval measures them.
#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "capi/handles.h"
#include "eval/evaluation.h"

namespace winnow::capi {
namespace {

constexpr std::int64_t kDefaultLength = 4096, kDefaultWindows = 12;
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

std::int64_t positive_or(std::int64_t given, std::int64_t otherwise, const char* name) {
  if (given < 0) fail(ErrorCode::kBadArgument, "{} is {}", name, given);
  return given == 0 ? otherwise : given;
}

bool has_name(const std::vector<EvalPolicy>& policies, const std::string& name) {
  return std::any_of(policies.begin(), policies.end(),
                     [&](const EvalPolicy& known) { return known.name == name; });
}

// What is measured, dense first, and the name that each of the caller's policies has there.
struct Measured {
  std::vector<EvalPolicy> policies{{"dense", {}, std::nullopt}};
  std::vector<std::string> names;
};

Measured policies_of(std::span<const winnow_policy* const> given) {
  Measured measured;
  for (const winnow_policy* handle : given) {
    const Policy& policy = required(handle, "a policy").policy;
    std::string name = policy.dense() ? "dense" : policy.name;
    if (!policy.dense()) {
      for (int copy = 2; has_name(measured.policies, name); ++copy)
        name = fmt::format("{} ({})", policy.name, copy);
      measured.policies.push_back({name, policy, std::nullopt});
    }
    measured.names.push_back(std::move(name));
  }
  return measured;
}

EvaluationSettings settings_of(const winnow_evaluate_options& given, std::int64_t context, std::string text,
                               std::vector<EvalPolicy> policies) {
  EvaluationSettings settings;
  settings.tasks = {"kl", "dce", "top1", "ppl"};
  settings.parsed_policies = std::move(policies);
  settings.texts = {{"text", std::move(text)}};
  settings.lengths = {positive_or(given.length, std::min(kDefaultLength, context), "length")};
  settings.windows = positive_or(given.windows, kDefaultWindows, "windows");
  return settings;
}

winnow_quality quality_of(const std::vector<ResultRow>& rows, const std::string& policy) {
  winnow_quality quality{};
  for (const ResultRow& row : rows) {
    if (row.policy != policy) continue;
    const Estimate& estimate = row.estimate;
    const Interval bounds = estimate.spread ? estimate.spread->ci95 : Interval{kUnknown, kUnknown};
    quality.windows = estimate.n;
    quality.avgtok = row.cost.avgtok;
    quality.density = row.cost.density;
    quality.kv_share = row.cost.kv_share;
    quality.speedup = row.speedup.value_or(0);
    if (row.task == "kl") {
      quality.kl = estimate.value;
      quality.kl_low = bounds.low;
      quality.kl_high = bounds.high;
    } else if (row.task == "dce") {
      quality.dce = estimate.value;
      quality.dce_low = bounds.low;
      quality.dce_high = bounds.high;
    } else if (row.task == "top1") {
      quality.top1 = estimate.value;
    } else if (row.task == "ppl") {
      quality.ppl = estimate.value;
    }
  }
  return quality;
}

RunResult run(const Evaluation& evaluation, const winnow_evaluate_options& given) {
  bool stop = false;
  double done = 0;
  RunnerOptions options;
  if (given.progress != nullptr) {
    const auto tell = [&] { return stop = stop || given.progress(done, given.user_data) != 0; };
    options.progress = [&, tell](double share, const std::string&) {
      done = share;
      tell();
    };
    options.cancelled = tell;  // a window may take minutes: who wants to stop is asked within one too
  }
  RunResult result = evaluation.run(options);
  if (!result.finished()) throw Cancelled();
  return result;
}

// results[i] of an array whose elements are as large as the first says.
winnow_quality* element(winnow_quality* results, std::size_t index) {
  return reinterpret_cast<winnow_quality*>(reinterpret_cast<char*>(results) + index * results->size);
}

std::string report_text(const Evaluation& evaluation, const RunResult& result) {
  nlohmann::json report = {{"schema", "winnow.evaluation/1"}, {"winnow", winnow_version()}};
  report.update(evaluation.report(result));
  return report.dump(2, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
}

}  // namespace
}  // namespace winnow::capi

using namespace winnow::capi;

winnow_status winnow_evaluate(winnow_engine* engine, const winnow_policy* const* policies, size_t count,
                              const char* text, size_t bytes, const winnow_evaluate_options* options,
                              winnow_quality* results, char** report) {
  return guarded([&] {
    SharedEngine& shared = *required(engine, "engine").shared;
    if (count == 0) winnow::fail(winnow::ErrorCode::kBadArgument, "no policy to evaluate");
    required(policies, "policies");
    required(results, "results");
    const winnow_evaluate_options given = read_options(options);
    for (std::size_t i = 0; i < count; ++i) check_result(element(results, i), "a result");
    const Measured measured = policies_of({policies, count});
    const Turn turn(shared.gate());
    const winnow::Evaluation evaluation(
        *shared,
        settings_of(given, shared->arch().context, {&required(text, "text"), bytes}, measured.policies));
    const winnow::RunResult result = run(evaluation, given);
    const std::vector<winnow::ResultRow> rows = evaluation.rows(result);
    char* const text_of_report = report == nullptr ? nullptr : caller_owned(report_text(evaluation, result));
    for (std::size_t i = 0; i < count; ++i) {
      write_result(element(results, i), quality_of(rows, measured.names[i]));
    }
    if (report != nullptr) *report = text_of_report;
  });
}
