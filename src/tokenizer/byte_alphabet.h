// GPT-2's alphabet: tokenizer files spell every byte of a token as a printable character (space is U+0120).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace winnow {

// UTF-8 of the character that stands for `byte`.
std::string_view alphabet_char(unsigned char byte);

// The bytes a token's spelling stands for; nothing when a character is not of the alphabet.
std::optional<std::string> alphabet_bytes(std::string_view spelling);

}  // namespace winnow
