// What a user of a policy should be told before it is used, from what was measured when it was made.
#pragma once

#include <string>
#include <vector>

#include "sparsity/policy.h"

namespace winnow {

// Below this share of second questions answered, a conversation is not safe: the prompt was pruned for the
// first question, and what the second one asks for may be gone.
constexpr double kSafeSecondQuestion = 0.9;

// One sentence each; empty when there is nothing to say. A policy that leaves nothing out has no warnings.
std::vector<std::string> policy_warnings(const Policy& policy);

}  // namespace winnow
