// Samples -> values with intervals: what the tables and the JSON of an evaluation say.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/sample.h"
#include "measures/statistics.h"

namespace winnow {

// How far a value may be off.
struct Spread {
  double standard_error = 0;
  Interval ci95;  // bootstrap over the items, fixed seed
};

// A value of a policy at a task and length.
struct Estimate {
  double value = 0;
  std::optional<Spread> spread;  // nothing of fewer items than kFewestForInterval
  std::int64_t n = 0;
};

// Measures of windows: "kl", "dce", "ppl", "top1", "context_benefit", "kl_second_half".
std::vector<std::string> window_measures();

// Nothing where the samples lack the measure (kl_second_half of a policy that drops tokens). Of questions the
// measure is "score".
//
// ppl is the exponential of the mean cross-entropy, and so are its bounds. context_benefit is a ratio of
// means, (CE without context - CE) / (CE without context - CE dense); its interval is that of the mean of r +
// (a_i - r b_i) / mean(b), the first-order expansion of a ratio r of means of a and b. Nothing when dense
// itself has no benefit.
std::optional<Estimate> estimate(std::span<const Sample> samples, const std::string& measure);

// Medians and means over samples that tell what a policy cost.
struct CostSummary {
  std::optional<double> ttft_ms, ttft_cold_ms;  // median of the warm samples; of the cold one
  // Means. `gated`: share of the chunks of attention that a policy's gate computed in full.
  double prompt_tokens = 0, avgtok = 0, density = 0, attn_work = 0, kv_share = 0, gated = 0;
};
CostSummary summarize_cost(std::span<const Sample> samples);

}  // namespace winnow
