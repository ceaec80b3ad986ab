#include "tokenizer/jinja_canonical.h"

#include <algorithm>
#include <cctype>

namespace winnow {
namespace {

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Turns a template into its canonical form; see canonical_template().
class Canonicaliser {
 public:
  explicit Canonicaliser(std::string_view text) : text_(text) {}

  std::string run() {
    while (!text_.empty()) {
      const std::size_t open = text_.find('{');
      const char kind = open < text_.size() && open + 1 < text_.size() ? text_[open + 1] : '\0';
      if (kind == '{' || kind == '%') {
        add_tag(open);
      } else if (kind == '#') {
        skip_comment(open);
      } else {
        const std::size_t end = open == std::string_view::npos ? text_.size() : open + 1;
        add_text(text_.substr(0, end), /*before_block=*/false, /*trim=*/false);
        text_.remove_prefix(end);
      }
    }
    return out_;
  }

 private:
  // Text outside of tags, trimmed as Transformers has Jinja do it: '-' eats white space on its side, a
  // block's own line leaves nothing (trim_blocks, lstrip_blocks).
  void add_text(std::string_view text, bool before_block, bool trim) {
    constexpr std::string_view kWhite = " \t\r\n";
    if (after_trim_) {
      text.remove_prefix(std::min(text.find_first_not_of(kWhite), text.size()));
    } else if (after_block_ && text.starts_with('\n')) {
      text.remove_prefix(1);
    }
    if (trim) {
      text = text.substr(0, text.find_last_not_of(kWhite) + 1);
    } else if (before_block) {
      const std::size_t end = text.find_last_not_of(" \t") + 1;
      if (end == 0 || text[end - 1] == '\n') text = text.substr(0, end);
    }
    out_ += text;
    after_trim_ = after_block_ = false;
  }

  // The text up to a tag, and the two or three characters that open it.
  void open_tag(std::size_t open, bool block) {
    const bool trim = open + 2 < text_.size() && text_[open + 2] == '-';
    add_text(text_.substr(0, open), block, trim);
    text_.remove_prefix(open + (trim ? 3 : 2));
  }

  // Jinja trims around a comment as around a block.
  void skip_comment(std::size_t open) {
    open_tag(open, /*block=*/true);
    const std::size_t end = std::min(text_.find("#}"), text_.size());
    after_trim_ = end > 0 && end < text_.size() && text_[end - 1] == '-';
    after_block_ = true;
    text_.remove_prefix(std::min(end + 2, text_.size()));
  }

  void add_tag(std::size_t open) {
    const bool block = text_[open + 1] == '%';
    open_tag(open, block);
    out_ += block ? "{%" : "{{";
    add_expression(block ? '%' : '}');
    out_ += block ? "%}" : "}}";
    after_block_ = block;
  }

  // Up to the end of the tag, which is consumed.
  void add_expression(char closer) {
    bool space = false;
    while (!text_.empty()) {
      const bool minus = text_[0] == '-' && text_.size() > 2 && text_[1] == closer && text_[2] == '}';
      if (minus || (text_[0] == closer && text_.size() > 1 && text_[1] == '}')) {
        text_.remove_prefix(minus ? 3 : 2);
        after_trim_ = minus;
        return;
      }
      if (std::isspace(static_cast<unsigned char>(text_[0])) != 0) {
        space = true;
        text_.remove_prefix(1);
      } else if (text_[0] == '\'' || text_[0] == '"') {
        add_string();
        space = false;
      } else {
        if (space && is_name(text_[0]) && is_name(out_.back())) out_ += ' ';
        out_ += text_[0];
        text_.remove_prefix(1);
        space = false;
      }
    }
  }

  // A string literal: single quotes, line ends as \n, ['name'] as .name.
  void add_string() {
    const char quote = text_[0];
    std::string literal;
    std::size_t i = 1;
    for (; i < text_.size() && text_[i] != quote; ++i) {
      if (text_[i] == '\\' && i + 1 < text_.size()) {
        literal += text_[i++];
        literal += text_[i];
      } else if (text_[i] == '\n') {
        literal += "\\n";
      } else {
        literal += text_[i] == '\'' ? "\\'" : std::string(1, text_[i]);
      }
    }
    text_.remove_prefix(std::min(i + 1, text_.size()));
    const bool subscript = out_.size() > 1 && out_.back() == '[' &&
                           (is_name(out_.end()[-2]) || out_.end()[-2] == ']') && text_.starts_with(']') &&
                           !literal.empty() && std::all_of(literal.begin(), literal.end(), is_name);
    if (subscript) {
      out_.back() = '.';
      out_ += literal;
      text_.remove_prefix(1);
    } else {
      out_ += '\'' + literal + '\'';
    }
  }

  std::string_view text_;
  std::string out_;
  bool after_trim_ = false;   // the last tag ended with '-'
  bool after_block_ = false;  // the last tag was {% %}
};

}  // namespace

std::string canonical_template(std::string_view jinja) {
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);  // Jinja drops one trailing line end
  return Canonicaliser(jinja).run();
}

}  // namespace winnow
