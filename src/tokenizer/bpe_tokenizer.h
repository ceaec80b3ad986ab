// BpeTokenizer: the one Tokenizer there is, made from a TokenizerSpec that the loaders fill
// (tokenizer_json.cc, vocab_merges.cc, tokenizer_gguf.cc, sentencepiece_model.cc).
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace winnow {

// Everything a tokenizer is, as data.
struct TokenizerSpec {
  std::string source;                            // names the file in messages
  std::shared_ptr<const Vocabulary> vocabulary;  // in the alphabet of `bpe`, or the text of added tokens
  std::vector<Merge> merges;
  BpeOptions bpe;  // `control` is filled by BpeTokenizer
  Normalizer normalizer;
  Pretokenizer pretokenizer;
  bool drops_leading_space = false;  // decoding takes away the space that encoding puts in front
  std::vector<AddedToken> added;
  std::vector<TokenId> prefix, suffix;   // put around every encoded text: begin-of-text and the like
  std::vector<TokenId> stop_tokens;      // what the files name; end-of-turn tokens are added by BpeTokenizer
  std::optional<TokenId> begin_of_text;  // what templates call bos_token
  std::optional<TokenId> end_of_text;    // and eos_token
  std::optional<std::string> chat_template;
};

// Has the normaliser change what `normalized` tokens of `spec.added` are looked for by, as `tokenizers` does.
void normalise_added(TokenizerSpec& spec);

class BpeTokenizer : public Tokenizer {
 public:
  // Throws Error(kBadFormat) for ids outside the vocabulary.
  explicit BpeTokenizer(TokenizerSpec spec);

  std::vector<TokenId> encode(std::string_view text, bool parse_special) const override;
  std::string_view token_bytes(TokenId id) const override;
  bool is_control(TokenId id) const override;
  std::int64_t vocab_size() const override { return spec_.vocabulary->size(); }
  const std::vector<TokenId>& stop_tokens() const override { return spec_.stop_tokens; }
  bool drops_leading_space() const override { return spec_.drops_leading_space; }
  bool has_chat_template() const override { return spec_.chat_template.has_value(); }
  std::vector<TokenId> encode_chat(const std::vector<ChatMessage>& messages,
                                   bool add_generation_prompt) const override;

 private:
  struct Scratch {
    WordCache cache;
    Words words;
  };
  class BorrowedScratch;

  // The constructor, step by step; each returns or fills what the next one needs.
  static TokenizerSpec complete(TokenizerSpec spec);
  void add_tokens();
  void set_token_bytes();
  void add_stop_tokens();
  void check_id(TokenId id, std::string_view what) const;
  std::size_t index_of(TokenId id) const;
  std::optional<TokenId> control_of(const ChatPiece& piece) const;
  // `begins`: the text stands at the very beginning.
  void encode_text(std::string_view text, bool parse_special, bool begins, Scratch& scratch,
                   std::vector<TokenId>& ids) const;
  void encode_raw(std::string_view text, bool parse_special, bool begins, Scratch& scratch,
                  std::vector<TokenId>& ids) const;
  void encode_normalized(std::string_view text, bool parse_special, bool begins, Scratch& scratch,
                         std::vector<TokenId>& ids) const;

  TokenizerSpec spec_;
  Bpe bpe_;
  AddedTokenSet raw_added_, normalized_added_;
  std::vector<std::string> bytes_;  // [vocab]
  std::optional<ChatTemplate> chat_template_;

  mutable std::mutex idle_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;  // caches of finished calls, for the next ones
};

}  // namespace winnow
