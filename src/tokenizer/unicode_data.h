// Unicode data exactly as the `tokenizers` package has it: its regex engine, its digit splitter and its NFC
// are of three different Unicode versions, so tables of one library would not give its ids. Read through
// char_class.h, nfc.h.
#pragma once

#include <cstdint>
#include <span>

namespace winnow {

struct CharClassRange {
  char32_t first, last;
  std::uint8_t classes;  // bits of char_class.h
};

struct CombiningRange {
  char32_t first, last;
  std::uint8_t combining_class;
};

// One level of canonical decomposition; Hangul syllables are arithmetic and not listed.
struct Decomposition {
  char32_t composed, first, second;  // second == 0: a singleton
  bool composes;                     // NFC puts first + second together again
};

// Sorted by code point; code points in no range have class 0.
std::span<const CharClassRange> char_class_ranges();
std::span<const CombiningRange> combining_ranges();
std::span<const Decomposition> decompositions();

}  // namespace winnow
