// Classes of characters the pre-tokenisers, added tokens and NFC ask for; one byte a code point.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tokenizer/utf8.h"

namespace winnow {

enum CharClass : std::uint8_t {
  kLetter = 1 << 0,      // \p{L}
  kNumber = 1 << 1,      // \p{N}
  kSpace = 1 << 2,       // \s
  kDigitSplit = 1 << 3,  // what the pre-tokenizer "Digits" splits off (a newer Unicode version than \p{N})
  kWord = 1 << 4,        // \w beside an added token with single_word
  kNfcUnsafe = 1 << 5,   // NFC may change it or join it with what is before it
};

class CharClasses {
 public:
  // Shared by all; made on first use (about a megabyte, most of it never touched).
  static const CharClasses& instance();

  std::uint8_t of(char32_t code_point) const { return table_[code_point]; }

  // Classes of the character at `p` in valid UTF-8; `bytes` is set to its length.
  std::uint8_t at(const char* p, std::size_t& bytes) const {
    const auto first = static_cast<unsigned char>(*p);
    if (first < 0x80) return bytes = 1, table_[first];
    return table_[utf8_decode(p, bytes)];
  }

 private:
  CharClasses();
  const std::uint8_t* table_;  // [0x110000]
};

}  // namespace winnow
