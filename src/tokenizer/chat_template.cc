#include "tokenizer/chat_template.h"

#include <algorithm>
#include <cctype>
#include <span>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

constexpr std::string_view kTurnBegin = "<|im_start|>", kTurnEnd = "<|im_end|>";

// Known templates in canonical form, cut where anything may stand. kDefault marks the default system message.
constexpr std::string_view kAny = "*", kDefault = "?";

constexpr std::string_view kPromptEnd =
    R"({%if add_generation_prompt%}{{'<|im_start|>assistant\n'}}{%endif%})";

constexpr std::string_view kPlainChatml[] = {
    R"({%for message in messages%}{{'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'}}{%endfor%})",
    kPromptEnd};

constexpr std::string_view kSmolLm2AndQwen2[] = {
    R"({%for message in messages%}{%if loop.first and messages[0].role!='system'%}{{'<|im_start|>system\n)",
    kDefault,
    R"(<|im_end|>\n'}}{%endif%}{{'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'}}{%endfor%})",
    kPromptEnd};

constexpr std::string_view kQwen2_5[] = {
    R"({%if tools%})",
    kAny,
    R"({%else%}{%if messages[0].role=='system'%}{{'<|im_start|>system\n'+messages[0].content+'<|im_end|>\n'}})"
    R"({%else%}{{'<|im_start|>system\n)",
    kDefault,
    R"(<|im_end|>\n'}}{%endif%}{%endif%}{%for message in messages%}{%if(message.role=='user')or)"
    R"((message.role=='system'and not loop.first)or(message.role=='assistant'and not message.tool_calls)%})"
    R"({{'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'}}{%elif message.role=='assistant'%})",
    kAny,
    R"({%endif%}{%endfor%})",
    kPromptEnd};

constexpr std::string_view kQwen3Head =
    R"({%else%}{%if messages[0].role=='system'%}{{'<|im_start|>system\n'+messages[0].content+'<|im_end|>\n'}})"
    R"({%endif%}{%endif%}{%set ns=namespace(multi_step_tool=true,last_query_index=messages|length-1)%})"
    R"({%for message in messages[::-1]%}{%set index=(messages|length-1)-loop.index0%})"
    R"({%if ns.multi_step_tool and message.role=='user'and)";
constexpr std::string_view kQwen3LastQuery =
    R"({%set ns.multi_step_tool=false%}{%set ns.last_query_index=index%}{%endif%}{%endfor%})"
    R"({%for message in messages%})";
constexpr std::string_view kQwen3Thinking =
    R"({%endif%}{%endif%}{%if loop.index0>ns.last_query_index%})"
    R"({%if loop.last or(not loop.last and reasoning_content)%}{{'<|im_start|>'+message.role+'\n<think>\n'+)"
    R"(reasoning_content.strip('\n')+'\n</think>\n\n'+content.lstrip('\n')}}{%else%})"
    R"({{'<|im_start|>'+message.role+'\n'+content}}{%endif%}{%else%}{{'<|im_start|>'+message.role+'\n'+content}})"
    R"({%endif%}{%if message.tool_calls%})";
constexpr std::string_view kQwen3End =
    R"({%endif%}{%endfor%}{%if add_generation_prompt%}{{'<|im_start|>assistant\n'}})"
    R"({%if enable_thinking is defined and enable_thinking is false%}{{'<think>\n\n</think>\n\n'}}{%endif%})"
    R"({%endif%})";

constexpr std::string_view kQwen3[] = {
    R"({%if tools%})",
    kAny,
    kQwen3Head,
    R"( not(message.content.startswith('<tool_response>')and message.content.endswith('</tool_response>'))%})",
    kQwen3LastQuery,
    R"({%if(message.role=='user')or(message.role=='system'and not loop.first)%})"
    R"({{'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'}}{%elif message.role=='assistant'%})"
    R"({%set content=message.content%}{%set reasoning_content=''%})"
    R"({%if message.reasoning_content is defined and message.reasoning_content is not none%})"
    R"({%set reasoning_content=message.reasoning_content%}{%else%}{%if'</think>'in message.content%})"
    R"({%set content=message.content.split('</think>')[-1].lstrip('\n')%}{%set reasoning_content=)"
    R"(message.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')%})",
    kQwen3Thinking,
    kAny,
    R"({%endif%}{{'<|im_end|>\n'}}{%elif message.role=='tool'%})",
    kAny,
    kQwen3End};

// The later revision, which also takes messages whose content is no string.
constexpr std::string_view kQwen3Later[] = {
    R"({%if tools%})",
    kAny,
    kQwen3Head,
    R"( message.content is string and)",
    R"( not(message.content.startswith('<tool_response>')and message.content.endswith('</tool_response>'))%})",
    kQwen3LastQuery,
    R"({%if message.content is string%}{%set content=message.content%}{%else%}{%set content=''%}{%endif%})"
    R"({%if(message.role=='user')or(message.role=='system'and not loop.first)%})"
    R"({{'<|im_start|>'+message.role+'\n'+content+'<|im_end|>'+'\n'}}{%elif message.role=='assistant'%})"
    R"({%set reasoning_content=''%}{%if message.reasoning_content is string%})"
    R"({%set reasoning_content=message.reasoning_content%}{%else%}{%if'</think>'in content%}{%set reasoning_content=)"
    R"(content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')%})"
    R"({%set content=content.split('</think>')[-1].lstrip('\n')%})",
    kQwen3Thinking,
    kAny,
    R"({%endif%}{{'<|im_end|>\n'}}{%elif message.role=='tool'%})",
    kAny,
    kQwen3End};

struct TemplateMatch {
  bool matches = false;
  std::optional<std::string> default_system;
};

// Whether `text` is `parts` one after the other; what stands for kAny and kDefault is as short as possible.
TemplateMatch match_parts(std::string_view text, std::span<const std::string_view> parts) {
  TemplateMatch match;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i] != kAny && parts[i] != kDefault) {
      if (!text.starts_with(parts[i])) return {};
      text.remove_prefix(parts[i].size());
      continue;
    }
    // The last kAny ends where the rest of the parts fills the text, not where it first occurs.
    std::string rest;
    for (std::size_t j = i + 1; j < parts.size() && parts[j] != kAny && parts[j] != kDefault; ++j)
      rest += parts[j];
    const bool last = std::none_of(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1, parts.end(),
                                   [](std::string_view p) { return p == kAny || p == kDefault; });
    const std::size_t begin = last && text.ends_with(rest) ? text.size() - rest.size() : text.find(rest);
    if (begin == std::string_view::npos) return {};
    if (parts[i] == kDefault) match.default_system = std::string(text.substr(0, begin));
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

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Turns a template into its canonical form; see canonical_template().
class Canonicaliser {
 public:
  explicit Canonicaliser(std::string_view text) : text_(text) {}

  std::string run() {
    while (!text_.empty()) {
      const std::size_t open = text_.find('{');
      const bool tag = open != std::string_view::npos && open + 1 < text_.size() &&
                       (text_[open + 1] == '{' || text_[open + 1] == '%');
      if (tag) {
        add_tag(open);
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

  void add_tag(std::size_t open) {
    const bool block = text_[open + 1] == '%';
    const bool trim = open + 2 < text_.size() && text_[open + 2] == '-';
    add_text(text_.substr(0, open), block, trim);
    text_.remove_prefix(open + (trim ? 3 : 2));
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

std::string strip(std::string text, char c) {
  const std::size_t begin = std::min(text.find_first_not_of(c), text.size());
  return text.substr(begin, text.find_last_not_of(c) + 1 - begin);
}

std::string strip_left(const std::string& text, char c) {
  return text.substr(std::min(text.find_first_not_of(c), text.size()));
}

// What the model said, taken apart at its </think>.
struct Answer {
  std::string reasoning, content;
};

Answer split_answer(const std::string& content) {
  constexpr std::string_view kOpen = "<think>", kClose = "</think>";
  const std::size_t first = content.find(kClose);
  if (first == std::string::npos) return {"", content};
  std::string reasoning = content.substr(0, first);
  if (const std::size_t open = reasoning.rfind(kOpen); open != std::string::npos) {
    reasoning = reasoning.substr(open + kOpen.size());
  }
  return {strip(reasoning, '\n'), strip_left(content.substr(content.rfind(kClose) + kClose.size()), '\n')};
}

// The last message a person wrote: what comes after it is one answer, tool results included.
std::size_t last_query(const std::vector<ChatMessage>& messages) {
  for (std::size_t i = messages.size(); i-- > 0;) {
    const std::string& content = messages[i].content;
    const bool tool_result = content.starts_with("<tool_response>") && content.ends_with("</tool_response>");
    if (messages[i].role == "user" && !tool_result) return i;
  }
  return messages.size() - 1;
}

std::string with_thinking(const std::vector<ChatMessage>& messages, std::size_t i) {
  const Answer answer = split_answer(messages[i].content);
  const bool last = i + 1 == messages.size();
  if (i <= last_query(messages) || (!last && answer.reasoning.empty())) return answer.content;
  return "<think>\n" + answer.reasoning + "\n</think>\n\n" + strip_left(answer.content, '\n');
}

class Transcript {
 public:
  void turn(const std::string& role, const std::string& content) {
    pieces_.push_back({std::string(kTurnBegin), true});
    text(role + '\n' + content);
    pieces_.push_back({std::string(kTurnEnd), true});
    text("\n");
  }
  void open_turn(const std::string& role) {
    pieces_.push_back({std::string(kTurnBegin), true});
    text(role + '\n');
  }
  std::vector<ChatPiece> take() { return std::move(pieces_); }

 private:
  void text(const std::string& text) { pieces_.push_back({text, false}); }

  std::vector<ChatPiece> pieces_;
};

}  // namespace

std::string canonical_template(std::string_view jinja) {
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);  // Jinja drops one trailing line end
  return Canonicaliser(jinja).run();
}

std::optional<ChatTemplate> ChatTemplate::recognise(std::string_view jinja) {
  struct Known {
    std::span<const std::string_view> parts;
    Assistant assistant;
  };
  const Known known[] = {{kPlainChatml, Assistant::kPlain},
                         {kSmolLm2AndQwen2, Assistant::kPlain},
                         {kQwen2_5, Assistant::kPlain},
                         {kQwen3, Assistant::kThinking},
                         {kQwen3Later, Assistant::kThinking}};
  const std::string canonical = canonical_template(jinja);
  for (const Known& candidate : known) {
    const TemplateMatch match = match_parts(canonical, candidate.parts);
    if (!match.matches) continue;
    ChatTemplate result;
    result.assistant_ = candidate.assistant;
    if (match.default_system) {
      if (ends_literal(*match.default_system)) continue;  // what follows is code, not a message
      result.default_system_ = unescape(*match.default_system);
    }
    return result;
  }
  return std::nullopt;
}

std::vector<ChatPiece> ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                            bool add_generation_prompt) const {
  if (messages.empty()) fail(ErrorCode::kBadArgument, "the conversation has no messages");
  Transcript transcript;
  if (default_system_ && messages[0].role != "system") transcript.turn("system", *default_system_);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      fail(ErrorCode::kBadArgument, "message {} has the role '{}'; system, user and assistant are known", i,
           printable(message.role));
    }
    const bool thinking = assistant_ == Assistant::kThinking && message.role == "assistant";
    transcript.turn(message.role, thinking ? with_thinking(messages, i) : message.content);
  }
  if (add_generation_prompt) transcript.open_turn("assistant");
  return transcript.take();
}

}  // namespace winnow
