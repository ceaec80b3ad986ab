#include "tokenizer/chat_dialect.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "tokenizer/char_class.h"

namespace winnow {
namespace {

class Transcript {
 public:
  Transcript& text(const std::string& text) {
    if (text.empty()) return *this;
    if (!pieces_.empty() && pieces_.back().kind == ChatPiece::Kind::kText) {
      pieces_.back().text += text;
    } else {
      pieces_.push_back({ChatPiece::Kind::kText, text});
    }
    return *this;
  }
  Transcript& control(std::string_view token) { return add(ChatPiece::Kind::kControl, token); }
  Transcript& mark(std::string_view token) { return add(ChatPiece::Kind::kMark, token); }
  Transcript& begin_of_text() { return add(ChatPiece::Kind::kBeginOfText, ""); }
  Transcript& end_of_text() { return add(ChatPiece::Kind::kEndOfText, ""); }
  std::vector<ChatPiece> take() { return std::move(pieces_); }

 private:
  Transcript& add(ChatPiece::Kind kind, std::string_view text) {
    pieces_.push_back({kind, std::string(text)});
    return *this;
  }

  std::vector<ChatPiece> pieces_;
};

// Python's str.strip(): white space, and the separators U+001C to U+001F.
std::string strip(const std::string& text) {
  const auto is_space = [&](std::size_t i, std::size_t& bytes) {
    const bool separator = text[i] >= 0x1C && text[i] <= 0x1F;
    return (CharClasses::instance().at(text.data() + i, bytes) & kSpace) != 0 || separator;
  };
  std::size_t begin = 0, end = 0, bytes = 0;
  while (begin < text.size() && is_space(begin, bytes)) begin += bytes;
  for (std::size_t i = begin; i < text.size(); i += bytes) {
    if (!is_space(i, bytes)) end = i + bytes;
  }
  return begin < end ? text.substr(begin, end - begin) : "";
}

// The first message if it is the system's, and what follows it.
struct Parts {
  const std::string* system = nullptr;
  std::span<const ChatMessage> turns;
};

Parts split_system(const Conversation& conversation) {
  const std::span<const ChatMessage> messages(conversation.messages);
  if (messages[0].role != "system") return {nullptr, messages};
  return {&messages[0].content, messages.subspan(1)};
}

[[noreturn]] void refuse(const ChatMessage& message, std::string_view rule) {
  fail(ErrorCode::kBadArgument, "this model's chat template cannot write a message of the role '{}' here: {}",
       message.role, rule);
}

void check_alternation(std::span<const ChatMessage> turns) {
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if ((turns[i].role == "user") != (i % 2 == 0)) refuse(turns[i], "user and assistant take turns");
  }
}

void check_no_system(std::span<const ChatMessage> turns) {
  for (const ChatMessage& message : turns) {
    if (message.role == "system") refuse(message, "a system message may only come first, if at all");
  }
}

// ---- ChatML

constexpr std::string_view kChatmlMarks[] = {"<|im_start|>", "<|im_end|>"};

std::string strip_of(const std::string& text, char c) {
  const std::size_t begin = std::min(text.find_first_not_of(c), text.size());
  return text.substr(begin, text.find_last_not_of(c) + 1 - begin);
}

std::string strip_left_of(const std::string& text, char c) {
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
  return {strip_of(reasoning, '\n'),
          strip_left_of(content.substr(content.rfind(kClose) + kClose.size()), '\n')};
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
  return "<think>\n" + answer.reasoning + "\n</think>\n\n" + strip_left_of(answer.content, '\n');
}

void chatml_turn(Transcript& out, const std::string& role, const std::string& content) {
  out.control("<|im_start|>").text(role + '\n' + content).control("<|im_end|>").text("\n");
}

std::vector<ChatPiece> render_chatml(const Conversation& conversation, bool thinking) {
  Transcript out;
  const std::vector<ChatMessage>& messages = conversation.messages;
  if (conversation.default_system && messages[0].role != "system") {
    chatml_turn(out, "system", *conversation.default_system);
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const bool thought = thinking && messages[i].role == "assistant";
    chatml_turn(out, messages[i].role, thought ? with_thinking(messages, i) : messages[i].content);
  }
  if (conversation.add_generation_prompt) out.control("<|im_start|>").text("assistant\n");
  return out.take();
}

// ---- Llama

std::vector<ChatPiece> render_llama2(const Conversation& conversation) {
  const Parts parts = split_system(conversation);
  check_no_system(parts.turns);
  check_alternation(parts.turns);
  Transcript out;
  for (std::size_t i = 0; i < parts.turns.size(); ++i) {
    const bool instructed = i == 0 && parts.system != nullptr;
    const std::string system = instructed ? "<<SYS>>\n" + *parts.system + "\n<</SYS>>\n\n" : "";
    const std::string content = strip(system + parts.turns[i].content);
    if (parts.turns[i].role == "user") {
      out.begin_of_text().mark("[INST]").text(" " + content + " ").mark("[/INST]");
    } else {
      out.text(" " + content + " ").end_of_text();
    }
  }
  return out.take();
}

constexpr std::string_view kLlama3Marks[] = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};

void llama3_header(Transcript& out, const std::string& role) {
  out.control("<|start_header_id|>").text(role).control("<|end_header_id|>").text("\n\n");
}

void llama3_turn(Transcript& out, const std::string& role, const std::string& content) {
  llama3_header(out, role);
  out.text(content).control("<|eot_id|>");
}

std::vector<ChatPiece> render_llama3(const Conversation& conversation, bool always_ask) {
  Transcript out;
  out.begin_of_text();
  for (const ChatMessage& message : conversation.messages) {
    llama3_turn(out, message.role, strip(message.content));
  }
  if (conversation.add_generation_prompt || always_ask) llama3_header(out, "assistant");
  return out.take();
}

// Some of these templates ask for today's date and have this one where there is no clock: the same prompt
// gives the same ids every day.
std::vector<ChatPiece> render_llama3_dated(const Conversation& conversation) {
  constexpr const char* kDates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
  const Parts parts = split_system(conversation);
  Transcript out;
  out.begin_of_text();
  llama3_turn(out, "system", kDates + (parts.system != nullptr ? strip(*parts.system) : ""));
  for (const ChatMessage& message : parts.turns) llama3_turn(out, message.role, strip(message.content));
  if (conversation.add_generation_prompt) llama3_header(out, "assistant");
  return out.take();
}

// ---- Mistral

constexpr std::string_view kMistralMarks[] = {"[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"};

struct MistralStyle {
  const char *before_inst = "", *after_inst = " ", *before_end = "";  // around [INST], in front of [/INST]
  const char *before_answer = "", *after_answer = "";                 // the latter behind the end of text
  bool strips_answer = false;
  enum class System { kRefused, kInFirst, kInLast } system = System::kRefused;  // in which user message
};

constexpr MistralStyle kV01{.before_end = " ", .after_answer = " "};
constexpr MistralStyle kV02{.before_end = " "};
constexpr MistralStyle kV1{
    .before_inst = " ", .before_end = " ", .before_answer = " ", .system = MistralStyle::System::kInFirst};
constexpr MistralStyle kV3{
    .before_answer = " ", .strips_answer = true, .system = MistralStyle::System::kInLast};
constexpr MistralStyle kNemo{.after_inst = "", .system = MistralStyle::System::kInLast};

void mistral_turn(Transcript& out, const MistralStyle& style, const ChatMessage& message,
                  const std::string& system) {
  if (message.role == "user") {
    out.text(style.before_inst).mark("[INST]").text(style.after_inst + system + message.content);
    out.text(style.before_end).mark("[/INST]");
  } else {
    out.text(style.before_answer).text(style.strips_answer ? strip(message.content) : message.content);
    out.end_of_text().text(style.after_answer);
  }
}

std::vector<ChatPiece> render_mistral(const Conversation& conversation, const MistralStyle& style) {
  Parts parts = split_system(conversation);
  if (style.system == MistralStyle::System::kRefused) parts = {nullptr, conversation.messages};
  check_no_system(parts.turns);
  check_alternation(parts.turns);
  Transcript out;
  out.begin_of_text();
  for (std::size_t i = 0; i < parts.turns.size(); ++i) {
    const std::size_t place = style.system == MistralStyle::System::kInFirst ? 0 : parts.turns.size() - 1;
    const bool instructed = parts.system != nullptr && i == place;
    mistral_turn(out, style, parts.turns[i], instructed ? *parts.system + "\n\n" : "");
  }
  return out.take();
}

std::vector<ChatPiece> render_mistral_v7(const Conversation& conversation) {
  Transcript out;
  out.begin_of_text();
  for (const ChatMessage& message : conversation.messages) {
    if (message.role == "user") {
      out.mark("[INST]").text(" " + message.content).mark("[/INST]");
    } else if (message.role == "system") {
      out.mark("[SYSTEM_PROMPT]").text(" " + message.content).mark("[/SYSTEM_PROMPT]");
    } else {
      out.text(" " + message.content).end_of_text();
    }
  }
  return out.take();
}

// ---- Gemma

constexpr std::string_view kGemmaMarks[] = {"<start_of_turn>", "<end_of_turn>"};

std::vector<ChatPiece> render_gemma(const Conversation& conversation, bool takes_system) {
  Parts parts = split_system(conversation);
  if (parts.system != nullptr && !takes_system) {
    refuse(conversation.messages[0], "it knows no system message; put it into the user's");
  }
  check_alternation(parts.turns);
  Transcript out;
  out.begin_of_text();
  std::string prefix = parts.system != nullptr ? *parts.system + "\n\n" : "";
  for (const ChatMessage& message : parts.turns) {
    const std::string role = message.role == "assistant" ? "model" : message.role;
    out.control("<start_of_turn>").text(role + '\n' + prefix + strip(message.content));
    out.control("<end_of_turn>").text("\n");
    prefix.clear();
  }
  if (conversation.add_generation_prompt) out.control("<start_of_turn>").text("model\n");
  return out.take();
}

}  // namespace

const ChatDialect kChatml{kChatmlMarks, [](const Conversation& c) { return render_chatml(c, false); }};
const ChatDialect kChatmlThinking{kChatmlMarks, [](const Conversation& c) { return render_chatml(c, true); }};
const ChatDialect kLlama2{kMistralMarks, render_llama2};
const ChatDialect kLlama3{kLlama3Marks, [](const Conversation& c) { return render_llama3(c, false); }};
const ChatDialect kLlama3Asking{kLlama3Marks, [](const Conversation& c) { return render_llama3(c, true); }};
const ChatDialect kLlama3Dated{kLlama3Marks, render_llama3_dated};
const ChatDialect kMistralV01{kMistralMarks, [](const Conversation& c) { return render_mistral(c, kV01); }};
const ChatDialect kMistralV02{kMistralMarks, [](const Conversation& c) { return render_mistral(c, kV02); }};
const ChatDialect kMistralV1{kMistralMarks, [](const Conversation& c) { return render_mistral(c, kV1); }};
const ChatDialect kMistralV3{kMistralMarks, [](const Conversation& c) { return render_mistral(c, kV3); }};
const ChatDialect kMistralNemo{kMistralMarks, [](const Conversation& c) { return render_mistral(c, kNemo); }};
const ChatDialect kMistralV7{kMistralMarks, render_mistral_v7};
const ChatDialect kGemma{kGemmaMarks, [](const Conversation& c) { return render_gemma(c, false); }};
const ChatDialect kGemma3{kGemmaMarks, [](const Conversation& c) { return render_gemma(c, true); }};

}  // namespace winnow
