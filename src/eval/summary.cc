#include "eval/summary.h"

#include <algorithm>
#include <cmath>

namespace winnow {
namespace {

Estimate estimate_mean(const std::vector<double>& values) {
  RunningMean mean;
  for (const double value : values) mean.add(value);
  Estimate estimate{mean.mean(), std::nullopt, mean.count()};
  if (const auto ci95 = bootstrap_mean95(values)) {
    estimate.spread = {std::sqrt(mean.variance() / static_cast<double>(values.size())), *ci95};
  }
  return estimate;
}

std::vector<double> column(std::span<const Sample> samples, const char* name) {
  std::vector<double> values;
  for (const Sample& sample : samples) {
    if (const auto found = sample.values.find(name); found != sample.values.end()) {
      values.push_back(found->second);
    }
  }
  return values;
}

std::vector<double> difference(std::span<const Sample> samples, const char* a, const char* b) {
  std::vector<double> result = column(samples, a);
  const std::vector<double> other = column(samples, b);
  for (std::size_t i = 0; i < result.size(); ++i) result[i] -= other[i];
  return result;
}

Estimate exponential(const Estimate& log) {
  Estimate estimate{std::exp(log.value), std::nullopt, log.n};
  if (log.spread) {
    const Interval& ci95 = log.spread->ci95;
    estimate.spread = {estimate.value * log.spread->standard_error,
                       {std::exp(ci95.low), std::exp(ci95.high)}};
  }
  return estimate;
}

std::optional<Estimate> ratio_of_means(const std::vector<double>& a, const std::vector<double>& b) {
  const double below = mean(b);
  if (!(below > 0)) return std::nullopt;
  const double ratio = mean(a) / below;
  std::vector<double> expanded;
  for (std::size_t i = 0; i < a.size(); ++i) expanded.push_back(ratio + (a[i] - ratio * b[i]) / below);
  return estimate_mean(expanded);
}

}  // namespace

std::vector<std::string> window_measures() {
  return {"kl", "dce", "ppl", "top1", "context_benefit", "kl_second_half"};
}

std::optional<Estimate> estimate(std::span<const Sample> samples, const std::string& measure) {
  std::vector<double> values;
  if (measure == "dce") {
    values = difference(samples, "ce", "ce_dense");
  } else if (measure == "context_benefit") {
    return ratio_of_means(difference(samples, "ce_without_context", "ce"),
                          difference(samples, "ce_without_context", "ce_dense"));
  } else {
    values = column(samples, measure == "ppl" ? "ce" : measure.c_str());
  }
  if (values.empty()) return std::nullopt;
  const Estimate result = estimate_mean(values);
  return measure == "ppl" ? exponential(result) : result;
}

CostSummary summarize_cost(std::span<const Sample> samples) {
  CostSummary cost;
  std::vector<double> ttft;
  RunningMean prompt, avgtok, density, attn_work, kv_share, gated;
  for (const Sample& sample : samples) {
    if (sample.ttft_ms && sample.cold) cost.ttft_cold_ms = sample.ttft_ms;
    if (sample.ttft_ms && !sample.cold) ttft.push_back(*sample.ttft_ms);
    prompt.add(static_cast<double>(sample.prompt_tokens));
    avgtok.add(sample.prefill.avgtok);
    density.add(sample.prefill.density);
    attn_work.add(sample.prefill.attn_work);
    kv_share.add(sample.prefill.kv_share);
    gated.add(sample.prefill.gated);
  }
  if (!ttft.empty()) cost.ttft_ms = percentile(ttft, 0.5);
  cost.prompt_tokens = prompt.mean();
  cost.avgtok = avgtok.mean();
  cost.density = density.mean();
  cost.attn_work = attn_work.mean();
  cost.kv_share = kv_share.mean();
  cost.gated = gated.mean();
  return cost;
}

}  // namespace winnow
