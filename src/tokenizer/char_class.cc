#include "tokenizer/char_class.h"

#include <algorithm>

#include "tokenizer/unicode_data.h"

namespace winnow {

CharClasses::CharClasses() {
  static std::uint8_t table[0x110000];
  for (const CharClassRange& range : char_class_ranges()) {
    std::fill(table + range.first, table + range.last + 1, range.classes);
  }
  table_ = table;
}

const CharClasses& CharClasses::instance() {
  static const CharClasses classes;
  return classes;
}

}  // namespace winnow
