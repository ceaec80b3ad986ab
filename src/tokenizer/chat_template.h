// Chat templates: which of the known ones a model's Jinja template is, and conversations rendered in it.
//
// winnow runs no Jinja. A template is brought into a canonical form and compared with the known ones
// (chat_forms.h); parts only tool calls reach may differ. Anything else is not recognised: a conversation
// rendered almost right would cost quality without a word.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat_dialect.h"
#include "tokenizer/tokenizer.h"

namespace winnow {

class ChatTemplate {
 public:
  // Nothing when the template is none that winnow knows.
  static std::optional<ChatTemplate> recognise(std::string_view jinja);

  // Throws Error(kBadArgument) for an empty conversation, a role other than system, user and assistant, and
  // for what the model's template refuses. Invalid UTF-8 becomes U+FFFD.
  std::vector<ChatPiece> render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;

  // Whether the template writes `token` itself; begin and end of text do not count.
  bool has_mark(std::string_view token) const;

  // What the template says for a conversation without a system message.
  const std::optional<std::string>& default_system() const { return default_system_; }

 private:
  explicit ChatTemplate(const ChatDialect& dialect) : dialect_(&dialect) {}

  const ChatDialect* dialect_;
  std::optional<std::string> default_system_;
};

}  // namespace winnow
