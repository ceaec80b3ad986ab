#include "tokenizer/alphabet.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/utf8.h"

namespace winnow {
namespace {

class TokenFinder {
 public:
  TokenFinder(std::shared_ptr<const Vocabulary> vocabulary, BpeOptions options)
      : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {}

  const BpeOptions& options() const { return options_; }
  TokenId size() const { return vocabulary_->size(); }

  // Control tokens are none.
  TokenId find(std::string_view spelling) const {
    const TokenId id = vocabulary_->find(spelling);
    return id >= 0 && !options_.control.empty() && options_.control[static_cast<std::size_t>(id)] ? -1 : id;
  }

 private:
  std::shared_ptr<const Vocabulary> vocabulary_;
  BpeOptions options_;
};

class Bytes : public Alphabet {
 public:
  Bytes(TokenFinder tokens, const std::string& source) : tokens_(std::move(tokens)) {
    for (int byte = 0; byte < 256; ++byte) {
      const TokenId id = tokens_.find(alphabet_char(static_cast<unsigned char>(byte)));
      // Real vocabularies lack bytes that hardly occur (SmolLM2's lacks 21); one without plain text is no
      // byte-level BPE.
      if (id < 0 && ((byte >= 0x20 && byte < 0x7F) || byte == '\n')) {
        fail(ErrorCode::kBadFormat, "{}: the vocabulary has no token for the byte 0x{:02x} ('{}')", source,
             byte, alphabet_char(static_cast<unsigned char>(byte)));
      }
      byte_tokens_[static_cast<std::size_t>(byte)] = id;
    }
  }

  void append(std::string_view word, std::vector<TokenId>& ids) const override {
    const BpeOptions& options = tokens_.options();
    bool after_unknown = false;
    for (const char c : word) {
      const TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
      if (id >= 0) {
        ids.push_back(id);
      } else if (options.unknown >= 0 && !(after_unknown && options.fuse_unknown)) {
        ids.push_back(options.unknown);
      }
      after_unknown = id < 0;
    }
  }

  TokenId find_word(std::string_view word) const override {
    std::string spelling;
    for (const char c : word) spelling += alphabet_char(static_cast<unsigned char>(c));
    return tokens_.find(spelling);
  }

  void finish(std::vector<TokenId>& /*ids*/, std::size_t /*begin*/) const override {}

 private:
  TokenFinder tokens_;
  std::array<TokenId, 256> byte_tokens_;
};

class Characters : public Alphabet {
 public:
  Characters(TokenFinder tokens, const std::string& source) : tokens_(std::move(tokens)) {
    const std::vector<std::string>& unspoken = tokens_.options().unspoken;
    for (std::size_t i = 0; i < unspoken.size(); ++i) {
      unspoken_ids_.emplace(unspoken[i], tokens_.size() + static_cast<TokenId>(i));
    }
    for (int byte = 0; tokens_.options().byte_fallback && byte < 256; ++byte) {
      const std::string spelling = byte_token(static_cast<unsigned char>(byte));
      const TokenId id = tokens_.find(spelling);
      if (id < 0) {
        fail(ErrorCode::kBadFormat, "{}: bytes are to have tokens, but the vocabulary has no '{}'", source,
             spelling);
      }
      byte_tokens_[static_cast<std::size_t>(byte)] = id;
    }
  }

  void append(std::string_view word, std::vector<TokenId>& ids) const override {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < word.size(); i += bytes) {
      utf8_decode(word.data() + i, bytes);
      const std::string_view character = word.substr(i, bytes);
      if (const TokenId id = tokens_.find(character); id >= 0) {
        ids.push_back(id);
      } else if (const auto found = unspoken_ids_.find(character); found != unspoken_ids_.end()) {
        ids.push_back(found->second);
      } else {
        append_unknown(character, ids);
      }
    }
  }

  TokenId find_word(std::string_view word) const override { return tokens_.find(word); }

  void finish(std::vector<TokenId>& ids, std::size_t begin) const override {
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(begin);
    const TokenId tokens = tokens_.size();
    if (std::any_of(first, ids.end(), [tokens](TokenId id) { return id >= tokens; })) {
      const std::vector<TokenId> symbols(first, ids.end());
      ids.resize(begin);
      for (const TokenId id : symbols) {
        if (id < tokens) {
          ids.push_back(id);
        } else {
          append_unknown(tokens_.options().unspoken[static_cast<std::size_t>(id - tokens)], ids);
        }
      }
    }
    if (tokens_.options().fuse_unknown) fuse_unknown(ids, begin);
  }

 private:
  void append_unknown(std::string_view character, std::vector<TokenId>& ids) const {
    if (tokens_.options().byte_fallback) {
      for (const char c : character) ids.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
    } else if (tokens_.options().unknown >= 0) {
      ids.push_back(tokens_.options().unknown);
    }
  }

  void fuse_unknown(std::vector<TokenId>& ids, std::size_t begin) const {
    const auto both_unknown = [unknown = tokens_.options().unknown](TokenId a, TokenId b) {
      return a == unknown && b == unknown;
    };
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(begin);
    ids.erase(std::unique(first, ids.end(), both_unknown), ids.end());
  }

  TokenFinder tokens_;
  std::array<TokenId, 256> byte_tokens_{};
  std::unordered_map<std::string_view, TokenId> unspoken_ids_;  // views into the options of tokens_
};

}  // namespace

std::unique_ptr<Alphabet> make_alphabet(std::shared_ptr<const Vocabulary> vocabulary, BpeOptions options,
                                        const std::string& source) {
  const AlphabetKind kind = options.alphabet;
  TokenFinder tokens(std::move(vocabulary), std::move(options));
  if (kind == AlphabetKind::kBytes) return std::make_unique<Bytes>(std::move(tokens), source);
  return std::make_unique<Characters>(std::move(tokens), source);
}

std::string byte_token(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

}  // namespace winnow
