// Splits text where a regular expression matches, through PCRE2 (UTF, UCP, JIT).
//
// `tokenizers` uses Oniguruma. What both read alike is passed on, \s is rewritten, and what would mean
// something else
// (\w, \b, \h, sets within sets, (?m), (?s)) is an Error. The Unicode version is that of the installed PCRE2.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tokenizer/pretokenizer.h"

namespace winnow {

class RegexSplitter : public Splitter {
 public:
  // Every match is a piece; what is between matches too if `keep_gaps`, else it is dropped. Throws
  // Error(kUnsupported).
  RegexSplitter(const std::string& pattern, bool keep_gaps, const std::string& source);
  ~RegexSplitter() override;

  // Throws Error(kUnsupported) when PCRE2 gives up on the text (backtracking without end).
  void split(std::string_view text, Words& words) const override;

 private:
  struct Code;  // hides pcre2.h
  std::unique_ptr<Code> code_;
  bool keep_gaps_;
  std::string source_;
};

}  // namespace winnow
