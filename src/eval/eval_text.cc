#include "eval/eval_text.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <iterator>
#include <sstream>

#include "core/check.h"

namespace winnow {
namespace {

bool ends_sentence(const std::string& word) {
  const std::size_t last = word.find_last_not_of("\"')]");
  return last != std::string::npos && (word[last] == '.' || word[last] == '!' || word[last] == '?');
}

}  // namespace

nlohmann::json texts_json(std::span<const EvalText> texts) {
  nlohmann::json result = nlohmann::json::array();
  for (const EvalText& text : texts) {
    const std::uint64_t hash = XXH64(text.content.data(), text.content.size(), 0);
    result.push_back(
        {{"name", text.name}, {"bytes", text.content.size()}, {"xxh64", fmt::format("{:016x}", hash)}});
  }
  return result;
}

Essays::Essays(std::span<const EvalText> texts) {
  std::vector<EvalText> used;
  std::copy_if(texts.begin(), texts.end(), std::back_inserter(used),
               [](const EvalText& text) { return text.haystack; });
  if (used.empty()) used.assign(texts.begin(), texts.end());
  identity_ = texts_json(used);
  for (const EvalText& text : used) {
    std::istringstream stream(text.content);
    for (std::string word; stream >> word;) words_.push_back(word);
  }
}

std::vector<std::string> Essays::sentences(std::int64_t start, std::int64_t count) const {
  check(!words_.empty(), "essays: a text with words");
  std::vector<std::string> result;
  bool open = false;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::string& word = words_[(start + i) % words()];
    if (open) {
      result.back() += " " + word;
    } else {
      result.push_back(word);
    }
    open = !ends_sentence(word);
  }
  return result;
}

}  // namespace winnow
