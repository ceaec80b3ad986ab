// Our own word lists for generated prompts: keys of needles ("amber-anchor") and lists of words.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {

std::span<const std::string_view> adjectives();
std::span<const std::string_view> nouns();

// The `index`-th of all words: first every adjective and noun, then closed compounds of the two
// ("amberanchor"). word_count() are distinct.
std::string word(std::int64_t index);
std::int64_t word_count();

}  // namespace winnow
