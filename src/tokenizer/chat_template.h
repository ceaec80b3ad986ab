// Chat templates: which of the known ChatML dialects a model's Jinja template is, and conversations rendered
// in it.
//
// winnow runs no Jinja. A template is brought into a canonical form (spacing, quotes and subscripts unified)
// and compared with the known ones; parts only tool calls reach may differ. Anything else is not recognised:
// a conversation rendered almost right would cost quality without a word.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

// A stretch of a rendered conversation: a control token, or text in which control tokens are plain text.
struct ChatPiece {
  std::string text;
  bool control;
};

class ChatTemplate {
 public:
  // Nothing when the template is none of SmolLM2's, Qwen2's, Qwen2.5's, Qwen3's or plain ChatML.
  static std::optional<ChatTemplate> recognise(std::string_view jinja);

  // Throws Error(kBadArgument) for an empty conversation or a role other than system, user and assistant.
  // Neighbouring text is one piece.
  std::vector<ChatPiece> render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;

  // What the template says for a conversation without a system message.
  const std::optional<std::string>& default_system() const { return default_system_; }

 private:
  enum class Assistant {
    kPlain,     // as it is
    kThinking,  // Qwen3: reasoning before </think> is dropped from earlier turns, kept (or opened) in the
                // last
  };

  Assistant assistant_ = Assistant::kPlain;
  std::optional<std::string> default_system_;
};

// The canonical form `recognise` compares; for tests.
std::string canonical_template(std::string_view jinja);

}  // namespace winnow
