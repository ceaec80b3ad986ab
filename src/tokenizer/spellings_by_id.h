// Collects tokens that a file gives as (spelling, id) pairs in any order into a list by id.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/tokenizer.h"

namespace winnow {

class SpellingsById {
 public:
  // `most` bounds how many tokens will come, and so the ids: they leave no gaps.
  SpellingsById(std::size_t most, std::string source)
      : spellings_(most), taken_(most), source_(std::move(source)) {}

  // Throws Error(kBadFormat) for an id that leaves a gap or belongs to another token; the same token twice is
  // none.
  void add(std::string_view spelling, TokenId id) {
    const auto i = static_cast<std::size_t>(id);
    if (i >= spellings_.size()) {
      fail(ErrorCode::kBadFormat, "{}: the token '{}' has the id {}, but there are at most {} tokens",
           source_, printable(spelling), id, spellings_.size());
    }
    if (taken_[i] && spellings_[i] != spelling) {
      fail(ErrorCode::kBadFormat, "{}: the tokens '{}' and '{}' both have the id {}", source_,
           printable(spellings_[i]), printable(spelling), id);
    }
    spellings_[i] = spelling;
    taken_[i] = true;
  }

  // The list. Throws Error(kBadFormat) when an id below the highest has no token.
  std::vector<std::string> take() {
    while (!taken_.empty() && !taken_.back()) {
      taken_.pop_back();
      spellings_.pop_back();
    }
    for (std::size_t i = 0; i < taken_.size(); ++i) {
      if (!taken_[i]) {
        fail(ErrorCode::kBadFormat, "{}: no token has the id {}, but ids go up to {}", source_, i,
             taken_.size() - 1);
      }
    }
    return std::move(spellings_);
  }

 private:
  std::vector<std::string> spellings_;
  std::vector<bool> taken_;
  std::string source_;
};

}  // namespace winnow
