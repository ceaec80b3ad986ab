// What a policy will do to prompts of example lengths, as numbers and as text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sparsity/policy.h"

namespace winnow::cli {

// 1024, 4096, 16384, ... within the context, and the context itself.
std::vector<std::int64_t> example_lengths(std::int64_t context);

// Tokens after each stage, of a prompt of `length`. A stage by top_p depends on the text: it counts as
// keeping all.
std::vector<std::int64_t> kept_by_stage(const Policy& policy, std::int64_t length);

// A table: a row a stage, a column a length.
std::string stage_table(const Policy& policy, const std::vector<std::int64_t>& lengths);

// One line: what attention computes.
std::string attention_text(const AttentionPolicy& policy);

}  // namespace winnow::cli
