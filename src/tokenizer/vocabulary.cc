#include "tokenizer/vocabulary.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>
#include <limits>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {

Vocabulary::Vocabulary(std::vector<std::string> spellings, const std::string& source)
    : spellings_(std::move(spellings)) {
  if (spellings_.empty()) fail(ErrorCode::kBadFormat, "{}: the vocabulary has no tokens", source);
  if (spellings_.size() > std::size_t{1} << 28) {
    fail(ErrorCode::kUnsupported, "{}: a vocabulary of {} tokens", source, spellings_.size());
  }
  slots_.assign(std::bit_ceil(spellings_.size() * 2), -1);
  for (TokenId id = 0; id < size(); ++id) {
    TokenId& slot = slots_[slot_of(spelling(id))];
    if (slot >= 0) {
      fail(ErrorCode::kBadFormat, "{}: the tokens {} and {} are both spelled '{}'", source, slot, id,
           printable(spelling(id)));
    }
    slot = id;
  }
}

std::size_t Vocabulary::slot_of(std::string_view spelling) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = XXH3_64bits(spelling.data(), spelling.size()) & mask;
  while (slots_[i] >= 0 && this->spelling(slots_[i]) != spelling) i = (i + 1) & mask;
  return i;
}

TokenId Vocabulary::find(std::string_view spelling) const { return slots_[slot_of(spelling)]; }

Merge resolve_merge(const Vocabulary& vocabulary, std::string_view left, std::string_view right,
                    std::size_t index, const std::string& source) {
  const auto find = [&](std::string_view spelling) {
    const TokenId id = vocabulary.find(spelling);
    if (id < 0) {
      fail(ErrorCode::kBadFormat, "{}: merges[{}] ('{}' and '{}'): the vocabulary has no '{}'", source, index,
           printable(left), printable(right), printable(spelling));
    }
    return id;
  };
  std::string joined;
  joined.reserve(left.size() + right.size());
  joined.append(left).append(right);
  return {find(left), find(right), find(joined), static_cast<std::uint32_t>(index)};
}

Merge resolve_merge(const Vocabulary& vocabulary, std::string_view rule, std::size_t index,
                    const std::string& source) {
  const std::size_t space = rule.find(' ');
  if (space == std::string_view::npos || rule.find(' ', space + 1) != std::string_view::npos) {
    fail(ErrorCode::kBadFormat, "{}: merges[{}] is '{}', not two tokens with a space between them", source,
         index, printable(rule));
  }
  return resolve_merge(vocabulary, rule.substr(0, space), rule.substr(space + 1), index, source);
}

}  // namespace winnow
