// EvalText: a text that windows are cut from and that needles are hidden in.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

struct EvalText {
  std::string name;  // for messages and results
  std::string content;
  bool haystack = true;  // needles may be hidden in it
};

// {name, bytes, xxh64} of each.
nlohmann::json texts_json(std::span<const EvalText> texts);

// Words of all texts, in order, without line breaks: RULER's essays.
class Essays {
 public:
  explicit Essays(std::span<const EvalText> texts);
  std::int64_t words() const { return static_cast<std::int64_t>(words_.size()); }
  // `count` words from word `start` on, the beginning following the end, as sentences: cut behind words that
  // end with '.', '!' or '?' (and quotes or brackets after it).
  std::vector<std::string> sentences(std::int64_t start, std::int64_t count) const;
  const nlohmann::json& identity() const { return identity_; }

 private:
  std::vector<std::string> words_;
  nlohmann::json identity_;
};

}  // namespace winnow
