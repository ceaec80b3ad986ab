// Added tokens: strings with an id of their own ("<|im_end|>"), found in text before anything else looks at
// it.
//
// Rules of `tokenizers` (added_vocabulary.rs): of the tokens that begin leftmost the longest wins; tokens
// with `normalized` are looked for after normalisation, the others before. A special token that is not to be
// parsed still takes its place in the search, so no other token is found inside it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

struct AddedToken {
  std::string content;
  TokenId id = -1;
  bool special = false;      // a control token: text names it only when the caller says so
  bool single_word = false;  // not beside a word character
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // looked for in normalised text
  std::string pattern = {};  // what is looked for; empty: the content
};

struct TextPiece {
  std::string_view text;
  TokenId id = -1;  // of an added token; -1: plain text
};

class AddedTokenSet {
 public:
  AddedTokenSet() : nodes_(1) {}
  void add(const AddedToken& token);  // empty contents are ignored
  bool empty() const { return tokens_.empty(); }

  // Cuts `text` into plain pieces and added tokens, in order.
  std::vector<TextPiece> split(std::string_view text, bool parse_special) const;

 private:
  struct Node {
    std::vector<std::pair<char, std::uint32_t>> children;
    std::int32_t token = -1;
  };
  struct Match {
    std::size_t begin = 0, end = 0;
    const AddedToken* token = nullptr;  // nullptr: none
  };

  Match find(std::string_view text, std::size_t from) const;
  Match match_at(std::string_view text, std::size_t begin) const;
  static bool is_single_word(std::string_view text, const Match& match);

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;  // a trie; [0] is the root
  std::array<bool, 256> begins_{};
  int first_bytes_ = 0;  // how many of begins_ are true
  char first_byte_ = 0;  // one of them
};

}  // namespace winnow
