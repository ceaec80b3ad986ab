#include "sparsity/policy_warnings.h"

#include <fmt/format.h>

namespace winnow {

std::vector<std::string> policy_warnings(const Policy& policy) {
  std::vector<std::string> warnings;
  if (policy.dense() || !policy.measured.is_object()) return warnings;
  const auto found = policy.measured.find("second_question_niah");
  if (found == policy.measured.end() || !found->is_number()) return warnings;
  const auto share = found->get<double>();
  if (share < kSafeSecondQuestion) {
    warnings.push_back(fmt::format(
        "policy {}: only {:.0f}% of second questions about a prompt were answered when it was measured "
        "(measured.second_question_niah); ask everything in the first turn, or use dense for "
        "conversations",
        policy.name, 100 * share));
  }
  return warnings;
}

}  // namespace winnow
