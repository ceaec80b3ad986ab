#include "sparsity/policy_warnings.h"

#include <fmt/format.h>

namespace winnow {
namespace {

// 0: none.
double measured_length(const Policy& policy) { return measured_number(policy, "length").value_or(0); }

}  // namespace

bool measured_near(const Policy& policy, std::int64_t prompt_tokens) {
  const double length = measured_length(policy), tokens = static_cast<double>(prompt_tokens);
  return length == 0 || (tokens >= length / 2 && tokens <= 2 * length);
}

std::string length_warning(const Policy& policy, std::int64_t prompt_tokens) {
  if (policy.dense() || measured_near(policy, prompt_tokens)) return "";
  return fmt::format(
      "policy {}: was measured at {:.0f} tokens (measured.length); what it costs at {} is not known",
      policy.name, measured_length(policy), prompt_tokens);
}

std::vector<std::string> policy_warnings(const Policy& policy) {
  std::vector<std::string> warnings;
  const auto share = measured_number(policy, "second_question_niah");
  const auto dense = measured_number(policy, "second_question_niah_dense");
  // Where dense finds no more, it is the model that loses them: advice to use dense would be wrong.
  const bool lost = share && *share < kSafeSecondQuestion && !(dense && *share >= *dense);
  if (!policy.dense() && lost) {
    warnings.push_back(fmt::format(
        "policy {}: only {:.0f}% of second questions about a prompt were answered when it was "
        "measured ({}measured.second_question_niah); ask everything in the first turn, or use dense "
        "for conversations",
        policy.name, 100 * *share, dense ? fmt::format("dense: {:.0f}%; ", 100 * *dense) : ""));
  }
  return warnings;
}

}  // namespace winnow
