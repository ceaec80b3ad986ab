#include "tokenizer/chat_template.h"

#include <algorithm>
#include <span>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/chat_forms.h"
#include "tokenizer/jinja_canonical.h"
#include "tokenizer/utf8.h"

namespace winnow {
namespace {

struct TemplateMatch {
  bool matches = false;
  std::optional<std::string> default_system;
};

// Whether `text` is `parts` one after the other; what stands for kAnyPart and kDefaultPart is as short as
// possible.
TemplateMatch match_parts(std::string_view text, std::span<const std::string_view> parts) {
  TemplateMatch match;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i] != kAnyPart && parts[i] != kDefaultPart) {
      if (!text.starts_with(parts[i])) return {};
      text.remove_prefix(parts[i].size());
      continue;
    }
    // The last kAnyPart ends where the rest of the parts fills the text, not where it first occurs.
    std::string rest;
    for (std::size_t j = i + 1; j < parts.size() && parts[j] != kAnyPart && parts[j] != kDefaultPart; ++j)
      rest += parts[j];
    const bool last = std::none_of(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1, parts.end(),
                                   [](std::string_view p) { return p == kAnyPart || p == kDefaultPart; });
    const std::size_t begin = last && text.ends_with(rest) ? text.size() - rest.size() : text.find(rest);
    if (begin == std::string_view::npos) return {};
    if (parts[i] == kDefaultPart) match.default_system = std::string(text.substr(0, begin));
    text.remove_prefix(begin);
  }
  match.matches = text.empty();
  return match;
}

// The value of a Jinja string literal's inside.
std::string unescape(std::string_view literal) {
  std::string text;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      text += literal[i];
      continue;
    }
    const char c = literal[++i];
    if (c == 'n') {
      text += '\n';
    } else if (c == 't') {
      text += '\t';
    } else if (c == '\\' || c == '\'' || c == '"') {
      text += c;
    } else {
      text += {'\\', c};
    }
  }
  return text;
}

// Whether a quote ends the literal `inside` is the inside of.
bool ends_literal(std::string_view inside) {
  for (std::size_t i = 0; i < inside.size(); ++i) {
    if (inside[i] == '\'') return true;
    if (inside[i] == '\\') ++i;
  }
  return false;
}

void check_role(const ChatMessage& message, std::size_t i) {
  if (message.role == "system" || message.role == "user" || message.role == "assistant") return;
  fail(ErrorCode::kBadArgument, "message {} has the role '{}'; system, user and assistant are known", i,
       printable(message.role));
}

}  // namespace

std::optional<ChatTemplate> ChatTemplate::recognise(std::string_view jinja) {
  const std::string canonical = canonical_template(jinja);
  for (const ChatForm& form : chat_forms()) {
    const TemplateMatch match = match_parts(canonical, form.parts);
    if (!match.matches) continue;
    ChatTemplate result(form.dialect);
    if (match.default_system) {
      if (ends_literal(*match.default_system)) continue;  // what follows is code, not a message
      result.default_system_ = unescape(*match.default_system);
    }
    return result;
  }
  return std::nullopt;
}

bool ChatTemplate::has_mark(std::string_view token) const {
  return std::find(dialect_->marks.begin(), dialect_->marks.end(), token) != dialect_->marks.end();
}

std::vector<ChatPiece> ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                            bool add_generation_prompt) const {
  if (messages.empty()) fail(ErrorCode::kBadArgument, "the conversation has no messages");
  std::vector<ChatMessage> repaired = messages;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    check_role(messages[i], i);
    repaired[i].content = utf8_repair(messages[i].content);
  }
  return dialect_->render({repaired, add_generation_prompt, default_system_});
}

}  // namespace winnow
