#include "tokenizer/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace winnow {
namespace {

unsigned char byte_at(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }

std::size_t ascii_prefix(std::string_view text) {
  std::size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + i, sizeof(word));
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (i < text.size() && byte_at(text, i) < 0x80) ++i;
  return i;
}

// Length by the first byte, and what the second byte may be (table 3-7 of the Unicode standard).
struct Lead {
  std::size_t length;  // 0: no character begins so
  unsigned char second_min, second_max;
};

Lead lead_of(unsigned char first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  const Lead lead = lead_of(byte_at(text, 0));
  if (lead.length <= 1) return {lead.length == 1 ? Utf8Kind::kCharacter : Utf8Kind::kInvalid, 1};
  const std::size_t have = std::min(lead.length, text.size());
  for (std::size_t i = 1; i < have; ++i) {
    const unsigned char byte = byte_at(text, i);
    const bool fits = i == 1 ? byte >= lead.second_min && byte <= lead.second_max : (byte & 0xC0) == 0x80;
    if (!fits) return {Utf8Kind::kInvalid, i};
  }
  return {have == lead.length ? Utf8Kind::kCharacter : Utf8Kind::kIncomplete, have};
}

std::size_t utf8_valid_prefix(std::string_view text) {
  std::size_t i = ascii_prefix(text);
  while (i < text.size()) {
    const Utf8Step step = utf8_step(text.substr(i));
    if (step.kind != Utf8Kind::kCharacter) break;
    i += step.bytes;
    if (step.bytes == 1) i += ascii_prefix(text.substr(i));
  }
  return i;
}

std::string utf8_repair(std::string_view text) {
  std::string repaired;
  repaired.reserve(text.size());
  while (!text.empty()) {
    const std::size_t valid = utf8_valid_prefix(text);
    repaired.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    repaired.append(kReplacementCharacter);
    text.remove_prefix(utf8_step(text).bytes);
  }
  return repaired;
}

void utf8_append(std::string& text, char32_t c) {
  const auto put = [&text](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) return put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  if (c < 0x10000) return put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
}

}  // namespace winnow
