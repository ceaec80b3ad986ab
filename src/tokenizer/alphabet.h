// Alphabet: the symbols a word is cut into before anything is merged. One for tokens spelled in GPT-2's byte
// alphabet, one for tokens spelled as they are (SentencePiece).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace winnow {

enum class AlphabetKind { kBytes, kCharacters };

struct BpeOptions {
  AlphabetKind alphabet = AlphabetKind::kBytes;
  bool byte_fallback = false;  // characters without a token become tokens <0x00> ... <0xFF>, one a byte
  bool ignore_merges = false;  // a word that is a token stays whole, whatever the rules say
  // Stands for a byte or character without a token; -1: such are left out, as `tokenizers` does.
  TokenId unknown = -1;
  bool fuse_unknown = false;       // one `unknown` for several of them in a row
  std::vector<bool> control = {};  // [vocab], or empty: tokens that plain text never becomes
  std::vector<std::string> unspoken =
      {};  // characters with merge rules but no token; ids behind the vocabulary
};

class Alphabet {
 public:
  virtual ~Alphabet() = default;
  // Appends the symbols of `word`.
  virtual void append(std::string_view word, std::vector<TokenId>& ids) const = 0;
  // The token that is the whole word; -1 when there is none.
  virtual TokenId find_word(std::string_view word) const = 0;
  // Puts tokens for what merging left of other symbols, from ids[begin] on.
  virtual void finish(std::vector<TokenId>& ids, std::size_t begin) const = 0;
};

// Throws Error(kBadFormat), with `source`: for bytes, when one of printable ASCII or newline has no token;
// for characters, when a byte has no token and `options` ask for byte fallback.
std::unique_ptr<Alphabet> make_alphabet(std::shared_ptr<const Vocabulary> vocabulary, BpeOptions options,
                                        const std::string& source);

// "<0x0A>" for 10.
std::string byte_token(unsigned char byte);

}  // namespace winnow
