#include "tokenizer/pretokenizer.h"

#include <utility>

#include "tokenizer/char_class.h"
#include "tokenizer/regex_splitter.h"

namespace winnow {
namespace {

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})";
constexpr std::string_view kQwen2Tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Reads characters of valid UTF-8 with their classes.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), classes_(CharClasses::instance()) {}

  std::size_t size() const { return text_.size(); }
  char byte(std::size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  std::string_view from(std::size_t i) const { return text_.substr(i); }

  // Classes of the character at `i`, which is before the end; `next` is set to where the next one begins.
  std::uint8_t classes(std::size_t i, std::size_t& next) const {
    std::size_t bytes = 0;
    const std::uint8_t classes = classes_.at(text_.data() + i, bytes);
    next = i + bytes;
    return classes;
  }

  // End of the run, from `i`, of characters with one of the classes `any`.
  std::size_t skip(std::size_t i, std::uint8_t any) const {
    std::size_t next = i;
    while (i < text_.size() && (classes(i, next) & any) != 0) i = next;
    return i;
  }

  // End of the run, from `i`, of [^\s\p{L}\p{N}].
  std::size_t skip_symbols(std::size_t i) const {
    std::size_t next = i;
    while (i < text_.size() && (classes(i, next) & (kLetter | kNumber | kSpace)) == 0) i = next;
    return i;
  }

 private:
  std::string_view text_;
  const CharClasses& classes_;
};

// \s+(?!\S)|\s+ at `i`, where `end` ends the run of spaces: before a word the last space is left to it.
std::size_t match_spaces(const Scanner& text, std::size_t i, std::size_t end) {
  if (end == text.size()) return end;
  std::size_t last = end - 1;
  while ((static_cast<unsigned char>(text.byte(last)) & 0xC0) == 0x80) --last;
  return last > i ? last : end;
}

// Bytes of 's|'t|'re|'ve|'m|'ll|'d at `i`, where an apostrophe stands; 0 if none.
std::size_t match_contraction(const Scanner& text, std::size_t i, bool ignore_case) {
  const auto lower = [&](char c) {
    return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  const char first = lower(text.byte(i + 1)), second = lower(text.byte(i + 2));
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  if (first == 'l' && second == 'l') return 3;
  // U+017F, the long s, is an s to a regex that ignores case.
  if (ignore_case && first == '\xC5' && second == '\xBF') return 3;
  return 0;
}

// Cuts text into the matches of a rule that matches at every place.
template <class Match>
class MatchSplitter : public Splitter {
 public:
  explicit MatchSplitter(Match match) : match_(match) {}

  void split(std::string_view text, Words& words) const override {
    const Scanner scanner(text);
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t end = match_(scanner, i);
      words.pieces.push_back(text.substr(i, end - i));
      i = end;
    }
  }

 private:
  Match match_;
};

// Each gives the end of the match that begins at `i`.
struct Gpt2Match {
  std::size_t operator()(const Scanner& text, std::size_t i) const {
    if (text.byte(i) == '\'') {
      if (const std::size_t bytes = match_contraction(text, i, /*ignore_case=*/false)) return i + bytes;
    }
    std::size_t word = i, next = i;
    if (text.byte(i) == ' ' && i + 1 < text.size()) word = i + 1;
    const std::uint8_t classes = text.classes(word, next);
    if ((classes & kLetter) != 0) return text.skip(next, kLetter);
    if ((classes & kNumber) != 0) return text.skip(next, kNumber);
    if ((classes & kSpace) == 0) return text.skip_symbols(next);
    return match_spaces(text, i, text.skip(i, kSpace));
  }
};

struct Qwen2Match {
  std::size_t max_digits;

  std::size_t operator()(const Scanner& text, std::size_t i) const {
    const char first = text.byte(i);
    if (first == '\'') {
      if (const std::size_t bytes = match_contraction(text, i, /*ignore_case=*/true)) return i + bytes;
    }
    std::size_t next = i, after = i;
    const std::uint8_t classes = text.classes(i, next);
    if ((classes & kLetter) != 0) return text.skip(next, kLetter);
    if ((classes & kNumber) != 0) return match_digits(text, next);
    const std::uint8_t following = next < text.size() ? text.classes(next, after) : std::uint8_t{kSpace};
    if ((following & kLetter) != 0 && first != '\r' && first != '\n') return text.skip(after, kLetter);
    if ((classes & kSpace) == 0) return match_symbols(text, next);
    if (first == ' ' && (following & (kNumber | kLetter | kSpace)) == 0) return match_symbols(text, after);
    return match_white(text, i);
  }

  std::size_t match_digits(const Scanner& text, std::size_t i) const {
    std::size_t next = i;
    for (std::size_t n = 1; n < max_digits && i < text.size(); ++n, i = next) {
      if ((text.classes(i, next) & kNumber) == 0) break;
    }
    return i;
  }

  static std::size_t match_symbols(const Scanner& text, std::size_t i) {
    i = text.skip_symbols(i);
    while (text.byte(i) == '\r' || text.byte(i) == '\n') ++i;
    return i;
  }

  // \s*[\r\n]+|\s+(?!\S)|\s+
  static std::size_t match_white(const Scanner& text, std::size_t i) {
    const std::size_t end = text.skip(i, kSpace);
    for (std::size_t last = end; last > i; --last) {
      if (text.byte(last - 1) == '\n' || text.byte(last - 1) == '\r') return last;
    }
    return match_spaces(text, i, end);
  }
};

class DigitsSplitter : public Splitter {
 public:
  explicit DigitsSplitter(bool individual) : individual_(individual) {}

  void split(std::string_view text, Words& words) const override {
    const Scanner scanner(text);
    std::size_t begin = 0, next = 0;
    bool in_digits = false;
    for (std::size_t i = 0; i < text.size(); i = next) {
      const bool digit = (scanner.classes(i, next) & kDigitSplit) != 0;
      if (i > begin && (digit != in_digits || (digit && individual_))) {
        words.pieces.push_back(text.substr(begin, i - begin));
        begin = i;
      }
      in_digits = digit;
    }
    words.pieces.push_back(text.substr(begin));
  }

 private:
  bool individual_;
};

class PrefixSpace : public Splitter {
 public:
  void split(std::string_view text, Words& words) const override {
    if (text.front() == ' ') return words.pieces.push_back(text);
    words.owned.emplace_back(1, ' ').append(text);
    words.pieces.push_back(words.owned.back());
  }
};

}  // namespace

std::unique_ptr<Splitter> make_gpt2_splitter() {
  return std::make_unique<MatchSplitter<Gpt2Match>>(Gpt2Match());
}

std::unique_ptr<Splitter> make_qwen2_splitter(std::size_t max_digits) {
  return std::make_unique<MatchSplitter<Qwen2Match>>(Qwen2Match{max_digits});
}

std::unique_ptr<Splitter> make_digits_splitter(bool individual) {
  return std::make_unique<DigitsSplitter>(individual);
}

std::unique_ptr<Splitter> make_prefix_space() { return std::make_unique<PrefixSpace>(); }

std::unique_ptr<Splitter> make_regex_splitter(const std::string& pattern, bool keep_gaps,
                                              const std::string& source) {
  // Both expressions match any character, so there are no gaps to keep or drop.
  if (pattern == kGpt2) return make_gpt2_splitter();
  if (pattern.starts_with(kQwen2Head) && pattern.ends_with(kQwen2Tail)) {
    const std::string repeat =
        pattern.substr(kQwen2Head.size(), pattern.size() - kQwen2Head.size() - kQwen2Tail.size());
    if (repeat.empty()) return make_qwen2_splitter(1);
    if (repeat == "{1,3}") return make_qwen2_splitter(3);
  }
  return std::make_unique<RegexSplitter>(pattern, keep_gaps, source);
}

void Pretokenizer::split(std::string_view text, Words& words) const {
  words.pieces.clear();
  words.owned.clear();
  if (text.empty()) return;
  words.pieces.push_back(text);
  std::vector<std::string_view> before;
  for (const auto& splitter : splitters_) {
    before.clear();
    before.swap(words.pieces);
    for (const std::string_view piece : before) splitter->split(piece, words);
  }
}

}  // namespace winnow
