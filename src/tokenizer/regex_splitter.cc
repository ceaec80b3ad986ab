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

// The white space of Oniguruma as the inside of a character class; PCRE2's \s also holds U+180E.
constexpr std::string_view kWhite = R"(\p{Z}\t-\r\x{85})";

// Writes an expression for Oniguruma so that PCRE2 reads the same, or refuses what would mean something else.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& source) : rest_(pattern), source_(source) {}

  std::string run() {
    while (!rest_.empty()) {
      if (rest_[0] == '\\' && rest_.size() > 1) {
        add_escape(rest_[1]);
      } else if (in_class_) {
        add_in_class();
      } else if (rest_[0] == '[') {
        in_class_ = true;
        take(1);
        if (rest_.starts_with('^')) take(1);
        if (rest_.starts_with(']')) take(1);  // a bracket that stands first is itself
      } else {
        check_flags();
        take(1);
      }
    }
    return out_;
  }

 private:
  void take(std::size_t characters) {
    out_ += rest_.substr(0, characters);
    rest_.remove_prefix(characters);
  }

  void add_escape(char c) {
    if (std::string_view("wWbBhH").find(c) != std::string_view::npos || (c == 'S' && in_class_)) {
      refuse(rest_.substr(0, 2));
    }
    if (c != 's' && c != 'S') return take(2);
    out_ += in_class_ ? "" : c == 's' ? "[" : "[^";
    out_ += kWhite;
    out_ += in_class_ ? "" : "]";
    rest_.remove_prefix(2);
  }

  void add_in_class() {
    if (rest_[0] == '[' || rest_.starts_with("&&")) refuse(rest_.substr(0, 2));  // sets within sets
    in_class_ = rest_[0] != ']';
    take(1);
  }

  // (?m) is PCRE2's (?s), and (?s) is nothing to Oniguruma.
  void check_flags() const {
    if (!rest_.starts_with("(?")) return;
    const std::size_t end = rest_.find_first_not_of("imsx-", 2);
    const std::string_view flags = rest_.substr(0, end);
    if (flags.find_first_of("ms", 2) != std::string_view::npos) refuse(flags);
  }

  [[noreturn]] void refuse(std::string_view part) const {
    fail(ErrorCode::kUnsupported,
         "{}: the regular expression of the pre_tokenizer has {}, which is not supported", source_,
         printable(part));
  }

  std::string_view rest_;
  const std::string& source_;
  std::string out_;
  bool in_class_ = false;
};

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
  const std::string translated = Translator(pattern, source).run();
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                   &offset, /*ccontext=*/nullptr);
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
