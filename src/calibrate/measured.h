// Measured: a policy and what it cost on one set of windows and needles.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

#include "eval/eval_policy.h"
#include "eval/sample.h"

namespace winnow {

struct Measured {
  EvalPolicy policy;
  double kl = 0, dce = 0, niah = 0;
  std::optional<double> kl_error;  // standard error; nothing of windows too few for one
  std::optional<double> second_question, second_question_dense;  // dense's share of the same questions
  double speedup = 1, density = 1, avgtok = 1, attn_work = 1;
  std::int64_t windows = 0, needles = 0;
  bool held_out = false;
  bool timed = false;  // otherwise `speedup` says nothing
  bool baseline = false;
  double kv_share = 1;
};
nlohmann::json to_json(const Measured& measured);

// `dense_windows` are the dense samples of the same windows, in the same order: the speed-up is the median
// over the windows of dense time / policy time.
Measured measure_samples(const EvalPolicy& policy, std::span<const Sample> windows,
                         std::span<const Sample> needles, std::span<const Sample> dense_windows);

}  // namespace winnow
