// Pre-tokenisation: cuts text into the words that byte-pair merging never crosses.
//
// A Pretokenizer is a list of splitters; each cuts every piece the one before it left. The regular
// expressions of GPT-2 and of the Llama 3 / Qwen 2 family have matchers of their own (many times faster than
// any regex engine, and with the Unicode version of `tokenizers`); every other expression goes to PCRE2
// (regex_splitter.h). Text is valid UTF-8. Pieces are views into the text, or into `Words::owned`.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace winnow {

struct Words {
  std::vector<std::string_view> pieces;  // none is empty
  std::deque<std::string> owned;         // bytes that are not in the text: an added leading space
  bool begins_text = false;              // what is split stands at the very beginning of a text
};

class Splitter {
 public:
  virtual ~Splitter() = default;
  // Appends the pieces of `text`, which is not empty.
  virtual void split(std::string_view text, Words& words) const = 0;
};

// GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::unique_ptr<Splitter> make_gpt2_splitter();

// Llama 3, Qwen 2: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max_digits}|
//                   ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
std::unique_ptr<Splitter> make_qwen2_splitter(std::size_t max_digits);

// Digits each alone, or runs of them.
std::unique_ptr<Splitter> make_digits_splitter(bool individual);

// Puts a space in front of text that does not begin with one.
std::unique_ptr<Splitter> make_prefix_space();

// SentencePiece's sign for a space, U+2581.
inline constexpr std::string_view kSpaceSign = "\xE2\x96\x81";

// Metaspace of `tokenizers`: spaces become `sign`, which is also put in front unless it is there already.
struct MetaspaceOptions {
  enum class Prepend { kNever, kFirst, kAlways };  // kFirst: only at the very beginning of a text
  std::string sign{kSpaceSign};
  Prepend prepend = Prepend::kAlways;
  bool split = true;  // each sign begins a piece
};
std::unique_ptr<Splitter> make_metaspace(MetaspaceOptions options);

// Cuts in front of space signs where no merge rule could join what is on both sides, so ids stay those of
// the whole text while words become short and repeat.
std::unique_ptr<Splitter> make_safe_space_splitter(const Vocabulary& vocabulary,
                                                   std::span<const Merge> merges);

// The splitter for a regular expression: one of the matchers above if they know it, PCRE2 otherwise.
// Throws Error(kUnsupported), with `source` and the reason, for an expression PCRE2 refuses.
std::unique_ptr<Splitter> make_regex_splitter(const std::string& pattern, bool keep_gaps,
                                              const std::string& source);

class Pretokenizer {
 public:
  void add(std::unique_ptr<Splitter> splitter) { splitters_.push_back(std::move(splitter)); }
  // `words` is overwritten, but for begins_text.
  void split(std::string_view text, Words& words) const;

 private:
  std::vector<std::unique_ptr<Splitter>> splitters_;
};

}  // namespace winnow
