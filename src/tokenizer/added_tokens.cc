#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/char_class.h"

namespace winnow {
namespace {

std::size_t previous_character(std::string_view text, std::size_t end) {
  do --end;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

std::uint8_t classes_at(std::string_view text, std::size_t i, std::size_t& bytes) {
  return CharClasses::instance().at(text.data() + i, bytes);
}

// Begin of the white space before `end`, not before `limit`.
std::size_t strip_left(std::string_view text, std::size_t end, std::size_t limit) {
  std::size_t bytes = 0;
  while (end > limit) {
    const std::size_t previous = previous_character(text, end);
    if ((classes_at(text, previous, bytes) & kSpace) == 0) break;
    end = previous;
  }
  return end;
}

std::size_t strip_right(std::string_view text, std::size_t begin) {
  std::size_t bytes = 0;
  while (begin < text.size() && (classes_at(text, begin, bytes) & kSpace) != 0) begin += bytes;
  return begin;
}

}  // namespace

void AddedTokenSet::add(const AddedToken& token) {
  const std::string& pattern = token.pattern.empty() ? token.content : token.pattern;
  if (pattern.empty()) return;
  std::uint32_t node = 0;
  for (const char c : pattern) {
    auto& children = nodes_[node].children;
    const auto child =
        std::find_if(children.begin(), children.end(), [c](const auto& x) { return x.first == c; });
    if (child != children.end()) {
      node = child->second;
      continue;
    }
    children.emplace_back(c, static_cast<std::uint32_t>(nodes_.size()));
    node = static_cast<std::uint32_t>(nodes_.size());
    nodes_.emplace_back();
  }
  nodes_[node].token = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(token);
  bool& begins = begins_[static_cast<unsigned char>(pattern.front())];
  first_bytes_ += begins ? 0 : 1;
  first_byte_ = pattern.front();
  begins = true;
}

AddedTokenSet::Match AddedTokenSet::match_at(std::string_view text, std::size_t begin) const {
  Match match;
  std::uint32_t node = 0;
  for (std::size_t i = begin; i < text.size(); ++i) {
    const auto& children = nodes_[node].children;
    const auto child =
        std::find_if(children.begin(), children.end(), [c = text[i]](const auto& x) { return x.first == c; });
    if (child == children.end()) break;
    node = child->second;
    if (nodes_[node].token >= 0)
      match = {begin, i + 1, &tokens_[static_cast<std::size_t>(nodes_[node].token)]};
  }
  return match;
}

AddedTokenSet::Match AddedTokenSet::find(std::string_view text, std::size_t from) const {
  for (std::size_t i = from; i < text.size(); ++i) {
    if (first_bytes_ == 1) {
      i = text.find(first_byte_, i);
      if (i == std::string_view::npos) break;
    } else if (!begins_[static_cast<unsigned char>(text[i])]) {
      continue;
    }
    if (const Match match = match_at(text, i); match.token != nullptr) return match;
  }
  return {};
}

bool AddedTokenSet::is_single_word(std::string_view text, const Match& match) {
  std::size_t bytes = 0;
  if (match.begin > 0 && (classes_at(text, previous_character(text, match.begin), bytes) & kWord) != 0)
    return false;
  return match.end == text.size() || (classes_at(text, match.end, bytes) & kWord) == 0;
}

std::vector<TextPiece> AddedTokenSet::split(std::string_view text, bool parse_special) const {
  std::vector<TextPiece> pieces;
  if (text.empty()) return pieces;
  std::size_t done = 0;
  for (Match match = find(text, 0); match.token != nullptr; match = find(text, match.end)) {
    const AddedToken& token = *match.token;
    if (token.special && !parse_special) continue;
    if (token.single_word && !is_single_word(text, match)) continue;
    const std::size_t begin =
        token.lstrip ? std::max(strip_left(text, match.begin, done), done) : match.begin;
    const std::size_t end = token.rstrip ? strip_right(text, match.end) : match.end;
    if (done < begin) pieces.push_back({text.substr(done, begin - done), -1});
    pieces.push_back({token.content, token.id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), -1});
  return pieces;
}

}  // namespace winnow
