// BpeTokenizer: the one Tokenizer there is, made from a TokenizerSpec that the loaders fill
// (tokenizer_json.cc, vocab_merges.cc, tokenizer_gguf.cc).
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/byte_bpe.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace winnow {

// Everything a tokenizer is, as data.
struct TokenizerSpec {
  std::string source;                            // names the file in messages
  std::shared_ptr<const Vocabulary> vocabulary;  // byte alphabet, or the plain text of added tokens
  std::vector<Merge> merges;
  BpeOptions bpe;
  bool nfc = false;
  Pretokenizer pretokenizer;
  std::vector<AddedToken> added;
  std::vector<TokenId> prefix, suffix;  // put around every encoded text: begin-of-text and the like
  std::vector<TokenId> stop_tokens;     // what the files name; end-of-turn tokens are added by BpeTokenizer
  std::optional<std::string> chat_template;
};

class BpeTokenizer : public Tokenizer {
 public:
  // Throws Error(kBadFormat) for ids outside the vocabulary.
  explicit BpeTokenizer(TokenizerSpec spec);

  std::vector<TokenId> encode(std::string_view text, bool parse_special) const override;
  std::string_view token_bytes(TokenId id) const override;
  bool is_control(TokenId id) const override;
  std::int64_t vocab_size() const override { return spec_.vocabulary->size(); }
  const std::vector<TokenId>& stop_tokens() const override { return spec_.stop_tokens; }
  bool has_chat_template() const override { return spec_.chat_template.has_value(); }
  std::vector<TokenId> encode_chat(const std::vector<ChatMessage>& messages,
                                   bool add_generation_prompt) const override;

 private:
  struct Scratch {
    WordCache cache;
    Words words;
  };
  class BorrowedScratch;

  void add_tokens();
  void add_stop_tokens();
  void check_id(TokenId id, std::string_view what) const;
  std::size_t index_of(TokenId id) const;
  void encode_text(std::string_view text, bool parse_special, Scratch& scratch,
                   std::vector<TokenId>& ids) const;
  void encode_raw(std::string_view text, bool parse_special, Scratch& scratch,
                  std::vector<TokenId>& ids) const;
  void encode_normalized(std::string_view text, bool parse_special, Scratch& scratch,
                         std::vector<TokenId>& ids) const;

  TokenizerSpec spec_;
  ByteBpe bpe_;
  AddedTokenSet raw_added_, normalized_added_;
  std::vector<std::string> bytes_;  // [vocab]
  std::vector<bool> control_;       // [vocab]
  std::optional<ChatTemplate> chat_template_;

  mutable std::mutex idle_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;  // caches of finished calls, for the next ones
};

}  // namespace winnow
