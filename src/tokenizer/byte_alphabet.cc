#include "tokenizer/byte_alphabet.h"

#include <array>

#include "tokenizer/utf8.h"

namespace winnow {
namespace {

constexpr bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

// Printable bytes of Latin-1 stand for themselves, the others are U+0100, U+0101, ... in their order.
struct Alphabet {
  std::array<std::string, 256> chars;
  std::array<int, 0x144> bytes;  // by code point; -1: none

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t c = is_printable(byte) ? static_cast<char32_t>(byte) : next++;
      utf8_append(chars[static_cast<std::size_t>(byte)], c);
      bytes[c] = byte;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::string_view alphabet_char(unsigned char byte) { return alphabet().chars[byte]; }

std::optional<std::string> alphabet_bytes(std::string_view spelling) {
  const Alphabet& known = alphabet();
  std::string bytes;
  std::size_t length = 0;
  for (std::size_t i = 0; i < spelling.size(); i += length) {
    const Utf8Step step = utf8_step(spelling.substr(i));
    if (step.kind != Utf8Kind::kCharacter) return std::nullopt;
    const char32_t c = utf8_decode(spelling.data() + i, length);
    if (c >= known.bytes.size() || known.bytes[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(known.bytes[c]));
  }
  return bytes;
}

}  // namespace winnow
