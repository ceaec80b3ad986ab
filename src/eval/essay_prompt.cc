#include "eval/essay_prompt.h"

#include "core/error.h"
#include "eval/fit_length.h"
#include "eval/haystack.h"

namespace winnow {

PromptText longest_prompt(const EssayPrompt& parts, const PromptEncoder& encoder, const Essays& essays,
                          std::int64_t budget, const std::string& task) {
  const auto prompt = [&](std::int64_t words) {
    return parts.prompt_of(
        hide_in_sentences(essays.sentences(parts.start, words), parts.needles, parts.depths));
  };
  // A prompt that fits has fewer words than tokens.
  const std::int64_t words =
      largest_fitting(0, budget, [&](std::int64_t count) { return encoder.count(prompt(count)) <= budget; });
  if (words < 0) {
    fail(ErrorCode::kBadArgument, "{}: {} tokens are too few for the question alone ({} tokens)", task,
         budget, encoder.count(prompt(0)));
  }
  return prompt(words);
}

void check_essays(const PromptEncoder& encoder, const Essays& essays, std::int64_t length,
                  const std::string& task) {
  if (essays.words() >= length) return;  // a word is at least one token
  std::string text;
  for (const std::string& sentence : essays.sentences(0, essays.words())) text += sentence + " ";
  const auto found = static_cast<std::int64_t>(encoder.text_tokens(text).size());
  if (found >= length) return;
  std::string names;
  for (const auto& one : essays.identity())
    names += (names.empty() ? "" : ", ") + one["name"].get<std::string>();
  fail(ErrorCode::kBadArgument, "{}: {}: {} tokens of text found, {} needed for a haystack of that length",
       names, task, found, length);
}

}  // namespace winnow
