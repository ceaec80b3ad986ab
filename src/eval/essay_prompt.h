// Prompts whose haystack is an essay: as many words as fit.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "eval/eval_text.h"
#include "eval/prompt_encoder.h"

namespace winnow {

struct EssayPrompt {
  std::int64_t start = 0;  // first word of the essay
  std::vector<std::string> needles;
  std::vector<double> depths;  // percent, ascending
  // The prompt around a context.
  std::function<PromptText(const std::string& context)> prompt_of;
};

// The longest such prompt of at most `budget` tokens. Error(kBadArgument) naming `task` when the needles
// alone are too much.
PromptText longest_prompt(const EssayPrompt& parts, const PromptEncoder& encoder, const Essays& essays,
                          std::int64_t budget, const std::string& task);

// Error(kBadArgument) when the texts have fewer than `length` tokens: the haystack would repeat itself.
void check_essays(const PromptEncoder& encoder, const Essays& essays, std::int64_t length,
                  const std::string& task);

}  // namespace winnow
