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

  // Whether decode() takes away one space at the very beginning: encode() has put it there.
  virtual bool drops_leading_space() const { return false; }

  // Bytes of `ids`, which begin a text; control tokens are left out when `skip_control`.
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

// Streaming output of tokens: their text as soon as it is certain, without control tokens. In small steps the
// same as decode(ids, skip_control = true), but for bytes that are not UTF-8.
class TokenStream {
 public:
  // `begins_text`: the tokens begin a text, as an answer does; false when they go on with one.
  TokenStream(const Tokenizer& tokenizer, bool begins_text)
      : tokenizer_(tokenizer), drop_space_(begins_text && tokenizer.drops_leading_space()) {}
  std::string push(TokenId token);
  std::string finish() { return utf8_.finish(); }

 private:
  const Tokenizer& tokenizer_;
  Utf8Stream utf8_;
  bool drop_space_;  // the next byte, if it is a space, is none of the text's
};

// From the same MODEL argument as open_weights(): a GGUF file's metadata, or a folder's tokenizer.json,
// vocab.json + merges.txt or tokenizer.model (+ tokenizer_config.json, generation_config.json). One of these
// files may be named itself, with anything in front of its name ("gpt2-vocab.json"). Throws Error.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path);

}  // namespace winnow
