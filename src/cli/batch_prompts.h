// The prompts of `winnow batch`: a JSON object a line. Knows no files, and nothing of models.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow::cli {

// {"id"?: string or integer, "prompt": string | "messages": [{"role", "content"}], "max_tokens"?: integer}
struct BatchPrompt {
  std::int64_t index = 0;  // among the prompts of the file
  nlohmann::json id;       // null when there is none
  std::string prompt;
  std::vector<ChatMessage> messages;  // not empty: instead of `prompt`
  std::optional<std::int64_t> max_tokens;
  std::string hash;  // of what decides the answer, see hash_prompts()
};

// Every prompt of `text`; empty lines are skipped. `name` is what errors call the file. Error(kBadFormat)
// naming file and line for anything that is not a prompt.
std::vector<BatchPrompt> parse_prompts(const std::string& text, const std::string& name);

}  // namespace winnow::cli
