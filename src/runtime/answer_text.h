// AnswerText: an answer's tokens as text, handed out as soon as it is certain.
//
// Held back: half a UTF-8 character, and whatever may be the beginning of a stop string.
#pragma once

#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

class AnswerText {
 public:
  // Empty stop strings are ignored. `begins_text` as in TokenStream: true for a chat's answer, false for a
  // text that goes on.
  AnswerText(const Tokenizer& tokenizer, bool begins_text, std::vector<std::string> stop_strings);

  // New text that is certain now. Control tokens have none.
  std::string push(TokenId token);
  // The text held back, once no token follows.
  std::string finish();

  bool stopped() const { return stopped_; }          // a stop string has appeared; it is no part of the text
  const std::string& text() const { return text_; }  // all that was handed out

 private:
  std::string release(const std::string& fresh, bool last);

  std::vector<std::string> stop_strings_;
  TokenStream stream_;
  std::string held_, text_;
  bool stopped_ = false;
};

// The text of each token of `ids`, control tokens as they are written: together the whole text. A character
// that several tokens share belongs to the last of them.
std::vector<std::string> token_texts(const Tokenizer& tokenizer, const std::vector<TokenId>& ids);

}  // namespace winnow
