// The chat templates winnow knows, in canonical form (jinja_canonical.h), and what each means.
#pragma once

#include <span>
#include <string_view>

#include "tokenizer/chat_dialect.h"

namespace winnow {

// Parts of a form that are no text of it.
inline constexpr std::string_view kAnyPart = "*";      // anything: only tool calls get there
inline constexpr std::string_view kDefaultPart = "?";  // the default system message

struct ChatForm {
  std::span<const std::string_view> parts;  // one after the other they are the template
  const ChatDialect& dialect;
};

std::span<const ChatForm> chat_forms();

// What to say when a template is none of them.
inline constexpr std::string_view kKnownChatForms =
    "ChatML as SmolLM2, Qwen2, Qwen2.5 and Qwen3 write it, and those of Llama 2, Llama 3 to 3.3, Mistral "
    "Instruct and Gemma 1 to 3";

}  // namespace winnow
