// What a user of a policy should be told before it is used, from what was measured when it was made.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sparsity/policy.h"

namespace winnow {

// Below this share of second questions answered, and below what dense answered of the same (where that was
// measured), a conversation is not safe: the prompt was pruned for the first question, and what the second
// one asks for may be gone.
constexpr double kSafeSecondQuestion = 0.9;

// One sentence each; empty when there is nothing to say. A policy that leaves nothing out has no warnings.
std::vector<std::string> policy_warnings(const Policy& policy);

// Whether what was measured speaks of a prompt of this many tokens: measured.length is from half to twice as
// many, or there is none. What is left out of short prompts costs more than of long ones.
bool measured_near(const Policy& policy, std::int64_t prompt_tokens);

// A sentence for a prompt that the policy was not measured near; else "".
std::string length_warning(const Policy& policy, std::int64_t prompt_tokens);

}  // namespace winnow
