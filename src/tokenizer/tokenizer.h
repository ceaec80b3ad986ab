// Tokenizer: text <-> token ids, exactly as the model's own tokenizer does it.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {

using TokenId = std::int32_t;

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of `text` (UTF-8; each invalid part becomes one U+FFFD, see utf8.h), with the begin-of-text token in
  // front if the model's files ask for one. With `parse_special`, control tokens written in the text
  // ("<|im_end|>") become their ids; without it they are plain text. Added tokens that are no control tokens
  // ("<think>") become their ids either way. May be called from several threads.
  virtual std::vector<TokenId> encode(std::string_view text, bool parse_special) const = 0;

  // Raw bytes of one token; control tokens give their text.
  virtual std::string_view token_bytes(TokenId id) const = 0;
  virtual bool is_control(TokenId id) const = 0;
  virtual std::int64_t vocab_size() const = 0;

  // Tokens that end an answer (the model's eos and, for chat models, the end-of-turn token).
  virtual const std::vector<TokenId>& stop_tokens() const = 0;

  // Ids of a conversation in the model's own chat template, ending where the assistant's answer begins when
  // `add_generation_prompt`. Control tokens inside `content` stay plain text. Error(kUnsupported) for a
  // template winnow does not know; has_chat_template() is false when the model has none.
  virtual bool has_chat_template() const = 0;
  virtual std::vector<TokenId> encode_chat(const std::vector<ChatMessage>& messages,
                                           bool add_generation_prompt) const = 0;

  // Bytes of `ids`; control tokens are left out when `skip_control`.
  std::string decode(const std::vector<TokenId>& ids, bool skip_control) const;
};

// Streaming output: takes token bytes, gives back only whole UTF-8 characters; a half character waits for its
// rest.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string finish();  // whatever is left, invalid parts as U+FFFD

 private:
  std::string pending_;
};

// From the same MODEL argument as open_weights(): a GGUF file's metadata, or a folder's tokenizer.json (+
// tokenizer_config.json, generation_config.json, or vocab.json + merges.txt). One of these files may be named
// itself, with anything in front of its name ("gpt2-vocab.json"). Throws Error.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path);

}  // namespace winnow
