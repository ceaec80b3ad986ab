#include "eval/prompt_encoder.h"

#include <algorithm>

#include "core/error.h"

namespace winnow {

PromptEncoder::PromptEncoder(const Tokenizer& tokenizer, bool plain)
    : tokenizer_(tokenizer),
      chat_(!plain && tokenizer.has_chat_template()),
      begin_(tokenizer.encode("", /*parse_special=*/false)) {}

std::vector<TokenId> PromptEncoder::text_tokens(const std::string& text) const {
  std::vector<TokenId> tokens = tokenizer_.encode(text, /*parse_special=*/false);
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(begin_.size()));
  return tokens;
}

// The template's generation prompt ends a line, so the space that parts the prefix from the question goes.
void PromptEncoder::append_prefix(const PromptText& prompt, std::vector<TokenId>& tokens) const {
  const std::size_t first = prompt.answer_prefix.find_first_not_of(' ');
  if (first == std::string::npos) return;
  const std::vector<TokenId> prefix = text_tokens(prompt.answer_prefix.substr(first));
  tokens.insert(tokens.end(), prefix.begin(), prefix.end());
}

std::vector<TokenId> PromptEncoder::first_turn(const PromptText& prompt) const {
  if (!chat_ || !prompt.chat) {
    return tokenizer_.encode(prompt.user + prompt.answer_prefix, /*parse_special=*/false);
  }
  std::vector<TokenId> tokens =
      tokenizer_.encode_chat({{"user", prompt.user}}, /*add_generation_prompt=*/true);
  append_prefix(prompt, tokens);
  return tokens;
}

std::vector<TokenId> PromptEncoder::later_turn(const PromptText& prompt) const {
  if (!chat_ || !prompt.chat) return text_tokens("\n" + prompt.user + prompt.answer_prefix);
  std::vector<ChatMessage> messages{{"user", "a"}, {"assistant", "b"}};
  const std::vector<TokenId> before = tokenizer_.encode_chat(messages, /*add_generation_prompt=*/false);
  messages.push_back({"user", prompt.user});
  const std::vector<TokenId> whole = tokenizer_.encode_chat(messages, /*add_generation_prompt=*/true);
  if (whole.size() < before.size() || !std::equal(before.begin(), before.end(), whole.begin())) {
    fail(ErrorCode::kUnsupported,
         "this model's chat template rewrites earlier turns, so a second question cannot be asked on its "
         "caches; leave the task second_question out or add --plain");
  }
  auto closing = before.end();
  while (closing != before.begin() && !tokenizer_.is_control(*(closing - 1))) --closing;
  if (closing != before.begin()) --closing;  // the control token that ends the answer
  std::vector<TokenId> tokens(whole.begin() + (closing - before.begin()), whole.end());
  append_prefix(prompt, tokens);
  return tokens;
}

}  // namespace winnow
