// Chat templates: arbitrary conversations in every dialect. What a template looks like is tokenizer_fuzz's.
//
// The first byte chooses the dialect, the second whether the answer is asked for and whether there is a
// default system message. Messages follow, each after a byte that no UTF-8 has (0xF8 and up), which says
// whose it is. Whatever speakers write, the tokens that separate them are the same.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "core/error.h"
#include "tokenizer/chat_forms.h"
#include "tokenizer/utf8.h"

namespace {

using winnow::ChatMessage;
using winnow::ChatPiece;

std::vector<ChatMessage> read_messages(std::string_view bytes) {
  constexpr const char* kRoles[] = {"system", "user", "assistant"};
  std::vector<ChatMessage> messages;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0xF8) {
      messages.push_back({kRoles[byte % 3], ""});
    } else if (!messages.empty()) {
      messages.back().content += c;
    }
  }
  for (ChatMessage& message : messages) message.content = winnow::utf8_repair(message.content);
  return messages;
}

struct Rendered {
  std::vector<ChatPiece> pieces;
  bool refused = false;
};

Rendered render(const winnow::ChatDialect& dialect, const winnow::Conversation& conversation) {
  try {
    return {dialect.render(conversation), false};
  } catch (const winnow::Error&) {
    return {{}, true};
  }
}

// Every piece that is no text, as one string.
std::string separators(const std::vector<ChatPiece>& pieces) {
  std::string all;
  for (const ChatPiece& piece : pieces) {
    if (piece.kind == ChatPiece::Kind::kText) continue;
    all += std::to_string(static_cast<int>(piece.kind)) + piece.text + '\n';
  }
  return all;
}

void check_pieces(const std::vector<ChatPiece>& pieces, const winnow::ChatDialect& dialect) {
  bool after_text = false;
  for (const ChatPiece& piece : pieces) {
    const bool text = piece.kind == ChatPiece::Kind::kText;
    winnow::check(!(text && after_text), "neighbouring text is one piece");
    winnow::check(!text || !piece.text.empty(), "a piece of text has some");
    winnow::check(winnow::utf8_repair(piece.text) == piece.text, "pieces of UTF-8 are UTF-8");
    if (piece.kind == ChatPiece::Kind::kControl || piece.kind == ChatPiece::Kind::kMark) {
      bool known = false;
      for (const std::string_view mark : dialect.marks) known |= mark == piece.text;
      winnow::check(known, "only the dialect's own tokens separate");
    }
    after_text = text;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const auto forms = winnow::chat_forms();
  const winnow::ChatDialect& dialect = forms[data[0] % forms.size()].dialect;
  const bool asks = (data[1] & 1) != 0;
  const auto system = (data[1] & 2) != 0 ? std::optional<std::string>("Be kind.") : std::nullopt;
  const auto messages = read_messages({reinterpret_cast<const char*>(data) + 2, size - 2});
  if (messages.empty()) return 0;

  const Rendered rendered = render(dialect, {messages, asks, system});
  check_pieces(rendered.pieces, dialect);
  std::vector<ChatMessage> plain = messages;
  for (ChatMessage& message : plain) message.content = "x";
  const Rendered expected = render(dialect, {plain, asks, system});
  winnow::check(
      rendered.refused == expected.refused && separators(rendered.pieces) == separators(expected.pieces),
      "what speakers write separates nothing");
  return 0;
}
