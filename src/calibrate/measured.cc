#include "calibrate/measured.h"

#include "eval/summary.h"
#include "measures/statistics.h"

namespace winnow {
namespace {

std::vector<double> speedups_over(std::span<const Sample> dense, std::span<const Sample> samples) {
  std::vector<double> speedups;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (!samples[i].ttft_ms || !dense[i].ttft_ms || samples[i].cold || dense[i].cold) continue;
    speedups.push_back(*dense[i].ttft_ms / *samples[i].ttft_ms);
  }
  return speedups;
}

double value_or_zero(const std::optional<Estimate>& estimate) { return estimate ? estimate->value : 0; }

nlohmann::json or_null(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

}  // namespace

Measured measure_samples(const EvalPolicy& policy, std::span<const Sample> windows,
                         std::span<const Sample> needles, std::span<const Sample> dense_windows) {
  Measured measured;
  measured.policy = policy;
  measured.windows = std::ssize(windows);
  measured.needles = std::ssize(needles);
  if (const auto kl = estimate(windows, "kl")) {
    measured.kl = kl->value;
    if (kl->spread) measured.kl_error = kl->spread->standard_error;
  }
  measured.dce = value_or_zero(estimate(windows, "dce"));
  measured.niah = value_or_zero(estimate(needles, "score"));
  const std::vector<double> speedups = speedups_over(dense_windows, windows);
  measured.timed = !speedups.empty();
  if (measured.timed) measured.speedup = percentile(speedups, 0.5);
  const CostSummary cost = summarize_cost(windows);
  measured.density = cost.density;
  measured.avgtok = cost.avgtok;
  measured.attn_work = cost.attn_work;
  measured.kv_share = cost.kv_share;
  return measured;
}

nlohmann::json to_json(const Measured& measured) {
  return {{"policy", measured.policy.name},
          {"kl", measured.kl},
          {"kl_standard_error", or_null(measured.kl_error)},
          {"dce", measured.dce},
          {"niah", measured.needles > 0 ? nlohmann::json(measured.niah) : nlohmann::json()},
          {"second_question_niah", or_null(measured.second_question)},
          {"second_question_niah_dense", or_null(measured.second_question_dense)},
          {"speedup", measured.timed ? nlohmann::json(measured.speedup) : nlohmann::json()},
          {"density", measured.density},
          {"avgtok", measured.avgtok},
          {"attn_work", measured.attn_work},
          {"kv_share", measured.kv_share},
          {"baseline", measured.baseline},
          {"windows", measured.windows},
          {"needles", measured.needles},
          {"held_out", measured.held_out},
          {"definition", to_json(measured.policy)}};
}

}  // namespace winnow
