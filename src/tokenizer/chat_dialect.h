// How each family of models writes a conversation down. chat_forms.h says which templates mean which dialect.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

// A stretch of a rendered conversation. Neighbouring text is one piece.
struct ChatPiece {
  enum class Kind {
    kText,         // control tokens in it are plain text
    kControl,      // a control token
    kMark,         // a control token where the vocabulary has it, plain text where not ("[INST]")
    kBeginOfText,  // the model's own; `text` is empty
    kEndOfText,    // the same
  };
  Kind kind;
  std::string text;
};

struct Conversation {
  const std::vector<ChatMessage>& messages;  // at least one; roles are system, user and assistant; UTF-8
  bool add_generation_prompt;
  const std::optional<std::string>& default_system;  // said when there is no system message
};

struct ChatDialect {
  std::span<const std::string_view>
      marks;  // control tokens the dialect writes, but for begin and end of text
  // Throws Error(kBadArgument) where the model's template refuses a conversation.
  std::vector<ChatPiece> (*render)(const Conversation& conversation);
};

extern const ChatDialect kChatml, kChatmlThinking;              // SmolLM2, Qwen2, Qwen2.5; Qwen3
extern const ChatDialect kLlama2;                               // Llama 2
extern const ChatDialect kLlama3, kLlama3Asking, kLlama3Dated;  // 3; 3 with the prompt always; 3.1 to 3.3
extern const ChatDialect kMistralV01, kMistralV02, kMistralV1;  // Mistral 7B Instruct v0.1, v0.2; both, later
extern const ChatDialect kMistralV3, kMistralNemo,
    kMistralV7;                            // from Mistral 7B v0.3 and Large on; Nemo; 2411
extern const ChatDialect kGemma, kGemma3;  // Gemma 1 and 2; 3

}  // namespace winnow
