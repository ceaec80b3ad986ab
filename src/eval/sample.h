// Sample: what one item gave under one policy.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "eval/policy_session.h"

namespace winnow {

struct Sample {
  std::map<std::string, double> values;  // by measure: "kl", "score", ...
  std::int64_t prompt_tokens = 0;
  PrefillFacts prefill;
  // From the prompt's text to the first token (windows: the prefill alone, their tokens are there already).
  // None for a policy that is not timed.
  std::optional<double> ttft_ms;
  std::string timed_on;  // the backend's description: times of another do not go with these
  bool cold = false;     // the first prefill of the process: not among the medians
  std::string answer;    // of questions
};

nlohmann::json to_json(const Sample& sample);
// Error(kBadFormat) naming `origin` for JSON that is not a sample.
Sample sample_from_json(const nlohmann::json& json, const std::string& origin);

}  // namespace winnow
