// The prompts a measurement reads: the first tokens of a file, or of each of the built-in texts.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow::cli {

struct TextPrompt {
  std::string name;
  std::vector<TokenId> tokens;
  nlohmann::json description;  // {source, bytes, xxh64}
};

struct SourceText {
  std::string name, text;
};

// What --text means everywhere: each name is a file, - (stdin), a built-in text, or mix, which is all of
// these. A file goes before a built-in text of the same name. Error(kIo) or Error(kBadArgument) naming what
// cannot be read or is not known.
std::vector<SourceText> read_texts(const std::vector<std::string>& names);

// One prompt a text, all of the same length: `length` tokens from each text's start, or with 0 as many as all
// of them have, `most` at the utmost. Error(kBadArgument) names a text that is too short.
std::vector<TextPrompt> make_prompts(const Tokenizer& tokenizer, const std::vector<SourceText>& texts,
                                     std::int64_t length, std::int64_t most);

}  // namespace winnow::cli
