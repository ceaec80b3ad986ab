// The splitters that know SentencePiece's sign for a space.
#include <algorithm>
#include <utility>

#include "tokenizer/pretokenizer.h"
#include "tokenizer/utf8.h"

namespace winnow {
namespace {

class Metaspace : public Splitter {
 public:
  explicit Metaspace(MetaspaceOptions options) : options_(std::move(options)) {}

  void split(std::string_view text, Words& words) const override {
    const bool first = words.begins_text && words.pieces.empty();
    std::string& out = words.owned.emplace_back();
    const bool has_sign = text.starts_with(' ') || text.starts_with(options_.sign);
    const bool prepend = options_.prepend == MetaspaceOptions::Prepend::kAlways ||
                         (options_.prepend == MetaspaceOptions::Prepend::kFirst && first);
    if (prepend && !has_sign) out += options_.sign;
    for (const char c : text) {
      if (c == ' ') {
        out += options_.sign;
      } else {
        out += c;
      }
    }
    add_pieces(out, words);
  }

 private:
  void add_pieces(std::string_view text, Words& words) const {
    while (options_.split && !text.empty()) {
      const std::size_t next = text.find(options_.sign, 1);
      if (next == std::string_view::npos) break;
      words.pieces.push_back(text.substr(0, next));
      text.remove_prefix(next);
    }
    words.pieces.push_back(text);
  }

  MetaspaceOptions options_;
};

char32_t character_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1, bytes = 0;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return utf8_decode(text.data() + begin, bytes);
}

class SafeSpaces : public Splitter {
 public:
  SafeSpaces(const Vocabulary& vocabulary, std::span<const Merge> merges) {
    for (const Merge& merge : merges) note_inner_signs(vocabulary.spelling(merge.result));
    std::sort(joined_.begin(), joined_.end());
    joined_.erase(std::unique(joined_.begin(), joined_.end()), joined_.end());
  }

  void split(std::string_view text, Words& words) const override {
    std::size_t begin = 0;
    for (std::size_t sign = text.find(kSpaceSign, 1); sign != std::string_view::npos;
         sign = text.find(kSpaceSign, sign + 1)) {
      if (std::binary_search(joined_.begin(), joined_.end(), character_before(text, sign))) continue;
      words.pieces.push_back(text.substr(begin, sign - begin));
      begin = sign;
    }
    words.pieces.push_back(text.substr(begin));
  }

 private:
  void note_inner_signs(std::string_view spelling) {
    for (std::size_t sign = spelling.find(kSpaceSign, 1); sign != std::string_view::npos;
         sign = spelling.find(kSpaceSign, sign + 1)) {
      joined_.push_back(character_before(spelling, sign));
    }
  }

  std::vector<char32_t> joined_;  // characters a token has in front of a sign; sorted
};

}  // namespace

std::unique_ptr<Splitter> make_metaspace(MetaspaceOptions options) {
  return std::make_unique<Metaspace>(std::move(options));
}

std::unique_ptr<Splitter> make_safe_space_splitter(const Vocabulary& vocabulary,
                                                   std::span<const Merge> merges) {
  return std::make_unique<SafeSpaces>(vocabulary, merges);
}

}  // namespace winnow
