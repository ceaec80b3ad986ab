// The attention section of a policy file. For policy_json.cc only.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "sparsity/policy.h"

namespace winnow {

// Error(kBadFormat) naming `origin` and the key: unknown keys, keys the selector does not know, values out of
// range.
AttentionPolicy read_attention(const nlohmann::json& json, const std::string& origin);
// Every key the selector knows.
nlohmann::json attention_to_json(const AttentionPolicy& policy);

}  // namespace winnow
