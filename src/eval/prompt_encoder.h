// PromptEncoder: a question as the tokens a model reads, in its chat template where it has one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

// The beginning of the answer is given to the model after the template's generation prompt, as RULER does.
struct PromptText {
  std::string user;
  std::string answer_prefix = {};
  bool chat = true;  // false: plain text even for a model with a chat template
};

class PromptEncoder {
 public:
  // `plain`: no chat template, whatever the model has.
  PromptEncoder(const Tokenizer& tokenizer, bool plain);

  std::vector<TokenId> first_turn(const PromptText& prompt) const;
  // What a further turn adds to a conversation that ends with an answer: what closes the answer (its stop
  // token is not read when it is sampled), the message, what opens the next answer. Error(kUnsupported) for a
  // template that rewrites earlier turns.
  std::vector<TokenId> later_turn(const PromptText& prompt) const;
  std::int64_t count(const PromptText& prompt) const {
    return static_cast<std::int64_t>(first_turn(prompt).size());
  }

  // Tokens of the middle of a text: without the begin-of-text token, which begin() is (empty: the model has
  // none).
  std::vector<TokenId> text_tokens(const std::string& text) const;
  const std::vector<TokenId>& begin() const { return begin_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  bool chat() const { return chat_; }

 private:
  void append_prefix(const PromptText& prompt, std::vector<TokenId>& tokens) const;

  const Tokenizer& tokenizer_;
  bool chat_;
  std::vector<TokenId> begin_;
};

}  // namespace winnow
