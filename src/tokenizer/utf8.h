// UTF-8, one character at a time, and the repair of what is not UTF-8.
//
// Rule for invalid bytes, as in Python's bytes.decode(errors="replace") and in the WHATWG and Unicode
// recommendations: each maximal part of a character that cannot go on is one U+FFFD; so is each byte that can
// begin no character (surrogates encoded as ED A0..BF xx are three).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace winnow {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

enum class Utf8Kind {
  kCharacter,   // `bytes` are one character
  kInvalid,     // `bytes` are a maximal part of no character: one U+FFFD
  kIncomplete,  // `bytes`, up to the end of the text, may still become a character
};

struct Utf8Step {
  Utf8Kind kind;
  std::size_t bytes;  // at least 1
};

// What `text`, which is not empty, begins with.
Utf8Step utf8_step(std::string_view text);

// Bytes of the longest valid prefix.
std::size_t utf8_valid_prefix(std::string_view text);

// `text` with every invalid or unfinished part replaced by U+FFFD.
std::string utf8_repair(std::string_view text);

// The character at `p` in text known to be valid; `bytes` is set to its length.
inline char32_t utf8_decode(const char* p, std::size_t& bytes) {
  const auto byte = [p](int i) { return static_cast<char32_t>(static_cast<unsigned char>(p[i])); };
  if (byte(0) < 0x80) return bytes = 1, byte(0);
  if (byte(0) < 0xE0) return bytes = 2, (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
  if (byte(0) < 0xF0) {
    return bytes = 3, (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  }
  return bytes = 4,
         (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

void utf8_append(std::string& text, char32_t code_point);

}  // namespace winnow
