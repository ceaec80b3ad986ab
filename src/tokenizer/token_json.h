// Reads the JSON files that hold a vocabulary. These are large and flat (11 MB for Qwen3), so vocabulary and
// merges go straight into lists while the parser runs; building a document of them first takes several times
// as long.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

struct TokenJson {
  std::vector<std::pair<std::string, TokenId>> vocab;       // in the order of the file
  std::vector<std::pair<std::string, std::string>> merges;  // left, right
  bool has_vocab = false;
  nlohmann::json rest = nullptr;  // the document without model.vocab and model.merges
};

enum class TokenJsonLayout {
  kTokenizerJson,  // {"model": {"vocab": {...}, "merges": [...]}, ...}
  kVocabJson,      // {spelling: id, ...}
};

// Throws Error(kBadFormat), with `source`, for bad JSON, a key given twice outside of the vocabulary, nesting
// over 64 levels, and for a vocabulary or merges of another shape.
TokenJson read_token_json(std::string_view text, TokenJsonLayout layout, const std::string& source);

}  // namespace winnow
