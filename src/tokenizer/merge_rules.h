// MergeRules: joins the symbols of one word, the pair with the lowest rank first (leftmost of equals), until
// no rule applies.
//
// Short words are merged by a scan, long ones through a heap, so a word of n symbols costs O(n log n).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace winnow {

class MergeRules {
 public:
  explicit MergeRules(std::span<const Merge> merges);

  // Merges in place; what is left are the first symbols, as many as it returns.
  std::size_t merge(std::span<TokenId> ids) const;

 private:
  struct Rule {
    std::uint64_t pair;
    std::uint32_t rank;
    TokenId result;
  };

  void add(const Merge& merge);
  const Rule* find(TokenId left, TokenId right) const;
  std::uint32_t rank_of(TokenId left, TokenId right) const;
  std::size_t slot_of(std::uint64_t pair) const;
  std::size_t merge_short(std::span<TokenId> ids) const;
  std::size_t merge_long(std::span<TokenId> ids) const;

  std::vector<Rule> rules_;  // open addressing, a power of two, at most two thirds full
};

}  // namespace winnow
