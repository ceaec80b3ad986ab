// Bpe: byte-pair encoding of one word. The word becomes symbols (alphabet.h), which are merged
// (merge_rules.h).
//
// Words come again and again, so callers bring a WordCache; a Bpe itself is never changed and is shared by
// threads.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/alphabet.h"
#include "tokenizer/merge_rules.h"
#include "tokenizer/vocabulary.h"

namespace winnow {

// Tokens of words seen before: direct-mapped, one cache line a word, about a megabyte.
class WordCache {
 public:
  WordCache();
  ~WordCache();
  WordCache(WordCache&&) = delete;

 private:
  friend class Bpe;
  struct Entry;
  std::unique_ptr<Entry[]> entries_;
};

class Bpe {
 public:
  // Throws Error(kBadFormat), with `source`; see make_alphabet().
  Bpe(std::shared_ptr<const Vocabulary> vocabulary, std::span<const Merge> merges, BpeOptions options,
      const std::string& source);

  // Appends the tokens of `word`, which is valid UTF-8 unless the alphabet is kBytes.
  void encode(std::string_view word, WordCache& cache, std::vector<TokenId>& ids) const;

 private:
  void encode_uncached(std::string_view word, std::vector<TokenId>& ids) const;

  MergeRules rules_;
  bool ignore_merges_;
  std::unique_ptr<Alphabet> alphabet_;
};

}  // namespace winnow
