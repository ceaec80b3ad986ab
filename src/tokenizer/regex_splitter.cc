#include "tokenizer/regex_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

struct RegexSplitter::Code {
  explicit Code(pcre2_code* c) : code(c) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  pcre2_code* code;
};

RegexSplitter::RegexSplitter(const std::string& pattern, bool keep_gaps, const std::string& source)
    : keep_gaps_(keep_gaps), source_(source) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, /*ccontext=*/nullptr);
  if (code == nullptr) {
    fail(ErrorCode::kUnsupported, "{}: the regular expression {} cannot be used: {} at {}", source,
         printable(pattern), message_of(error), offset);
  }
  code_ = std::make_unique<Code>(code);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it (no memory, no JIT) pcre2_match interprets
}

RegexSplitter::~RegexSplitter() = default;

void RegexSplitter::split(std::string_view text, Words& words) const {
  const std::unique_ptr<pcre2_match_data, FreeMatch> match(
      pcre2_match_data_create_from_pattern(code_->code, /*gcontext=*/nullptr));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
  const auto keep = [&](std::size_t begin, std::size_t end) {
    if (end > begin) words.pieces.push_back(text.substr(begin, end - begin));
  };
  std::size_t kept = 0;
  for (std::size_t from = 0; from <= text.size();) {
    const int found = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                  PCRE2_NO_UTF_CHECK, match.get(), /*mcontext=*/nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      fail(ErrorCode::kUnsupported, "{}: the regular expression of the pre_tokenizer fails on this text: {}",
           source_, message_of(found));
    }
    if (range[0] < kept || range[1] < range[0]) break;  // \K in a lookaround; nothing sensible to cut
    if (keep_gaps_) keep(kept, range[0]);
    keep(range[0], range[1]);
    kept = from = range[1];
    if (range[1] == range[0]) {  // an empty match cuts, then the search goes on behind the next character
      ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
    }
  }
  if (keep_gaps_) keep(kept, text.size());
}

}  // namespace winnow
