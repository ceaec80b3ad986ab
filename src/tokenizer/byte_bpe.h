// Byte-pair merging of one word: bytes become tokens, then the pair with the lowest rank is joined (leftmost
// first) until no rule applies.
//
// Short words are merged by a scan, long ones through a heap, so a word of n bytes costs O(n log n). Words
// come again and again, so callers bring a WordCache; a ByteBpe itself is never changed and is shared by
// threads.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace winnow {

// Tokens of words seen before: direct-mapped, one cache line a word, about a megabyte.
class WordCache {
 public:
  WordCache();
  ~WordCache();
  WordCache(WordCache&&) = delete;

 private:
  friend class ByteBpe;
  struct Entry;
  std::unique_ptr<Entry[]> entries_;
};

struct BpeOptions {
  bool ignore_merges = false;  // a word that is a token stays whole, whatever the rules say
  TokenId unknown =
      -1;  // stands for a byte without a token; -1: such bytes are left out, as `tokenizers` does
  bool fuse_unknown = false;  // one `unknown` for several such bytes in a row
};

class ByteBpe {
 public:
  // Throws Error(kBadFormat), with `source`, when a byte of printable ASCII, tab or newline has no token.
  ByteBpe(std::shared_ptr<const Vocabulary> vocabulary, std::span<const Merge> merges,
          const BpeOptions& options, const std::string& source);

  // Appends the tokens of `word`.
  void encode(std::string_view word, WordCache& cache, std::vector<TokenId>& ids) const;

 private:
  struct Rule {
    std::uint64_t pair;
    std::uint32_t rank;
    TokenId result;
  };

  void add_rule(const Merge& merge, std::uint32_t rank);
  const Rule* find_rule(TokenId left, TokenId right) const;
  std::uint32_t rank_of(TokenId left, TokenId right) const;
  std::size_t slot_of(std::uint64_t pair) const;

  bool encode_whole(std::string_view word, std::vector<TokenId>& ids) const;
  void append_bytes(std::string_view word, std::vector<TokenId>& ids) const;
  std::size_t merge_short(std::span<TokenId> ids) const;
  std::size_t merge_long(std::span<TokenId> ids) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  BpeOptions options_;
  std::array<TokenId, 256> byte_tokens_;
  std::vector<Rule> rules_;  // open addressing, a power of two, at most two thirds full
};

}  // namespace winnow
