// Vocabulary: token spellings by id and ids by spelling, filled once by a loader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

class Vocabulary {
 public:
  // Spellings by id, as the file has them. Throws Error(kBadFormat), with `source`, for an empty list or a
  // spelling that two ids share.
  Vocabulary(std::vector<std::string> spellings, const std::string& source);

  TokenId size() const { return static_cast<TokenId>(spellings_.size()); }
  const std::string& spelling(TokenId id) const { return spellings_[static_cast<std::size_t>(id)]; }
  TokenId find(std::string_view spelling) const;  // -1 when there is none

 private:
  std::size_t slot_of(std::string_view spelling) const;

  std::vector<std::string> spellings_;
  std::vector<TokenId> slots_;  // open addressing, -1 free; a power of two, at most half full
};

// One merge rule; the lowest rank is merged first.
struct Merge {
  TokenId left, right, result;
  std::uint32_t rank;
};

// The rule that joins `left` and `right`, ranked by its index in the file. Throws Error(kBadFormat) naming
// `source`, the rule's index and the spelling that is no token.
Merge resolve_merge(const Vocabulary& vocabulary, std::string_view left, std::string_view right,
                    std::size_t index, const std::string& source);

// The same for a rule written "left right".
Merge resolve_merge(const Vocabulary& vocabulary, std::string_view rule, std::size_t index,
                    const std::string& source);

}  // namespace winnow
