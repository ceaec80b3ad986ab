#include "cli/batch_prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "cli/text_lines.h"
#include "core/error.h"
#include "formats/json_text.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxLineBytes = 256 << 20;  // no context takes more text

// `where` is "file:line".
[[noreturn]] void bad_line(const std::string& where, const std::string& why) {
  fail(ErrorCode::kBadFormat, "{}: {}", where, why);
}

void check_keys(const json& object, std::initializer_list<std::string_view> known, const std::string& where) {
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    bad_line(where, fmt::format("unknown key \"{}\" (known: {})", key, fmt::join(known, ", ")));
  }
}

std::string text_of(const json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || !object[key].is_string())
    bad_line(where, fmt::format("\"{}\" must be text", key));
  return object[key].get<std::string>();
}

std::vector<ChatMessage> messages_of(const json& messages, const std::string& where) {
  if (!messages.is_array() || messages.empty())
    bad_line(where, "\"messages\" must be a list of at least one message");
  std::vector<ChatMessage> result;
  for (const json& message : messages) {
    if (!message.is_object()) bad_line(where, "a message must be an object with role and content");
    check_keys(message, {"role", "content"}, where);
    result.push_back({text_of(message, "role", where), text_of(message, "content", where)});
    const std::string& role = result.back().role;
    if (role != "system" && role != "user" && role != "assistant") {
      bad_line(where, fmt::format("role \"{}\" must be system, user or assistant", role));
    }
  }
  return result;
}

BatchPrompt parse_prompt(const std::string& line, const std::string& where) {
  const json object = parse_json_object(line, where, kMaxLineBytes);
  check_keys(object, {"id", "prompt", "messages", "max_tokens"}, where);
  if (object.contains("prompt") == object.contains("messages")) {
    bad_line(where, "needs \"prompt\" or \"messages\", one of the two");
  }
  BatchPrompt prompt;
  if (object.contains("prompt")) prompt.prompt = text_of(object, "prompt", where);
  if (object.contains("messages")) prompt.messages = messages_of(object["messages"], where);
  if (object.contains("id")) {
    prompt.id = object["id"];
    if (!prompt.id.is_string() && !prompt.id.is_number_integer())
      bad_line(where, "\"id\" must be text or an integer");
  }
  if (object.contains("max_tokens")) {
    const json& value = object["max_tokens"];
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1) {
      bad_line(where, "\"max_tokens\" must be an integer of at least 1");
    }
    prompt.max_tokens = value.get<std::int64_t>();
  }
  return prompt;
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

}  // namespace

std::vector<BatchPrompt> parse_prompts(const std::string& text, const std::string& name) {
  std::vector<BatchPrompt> prompts;
  for_each_line(text, [&](const std::string& line, std::int64_t number, bool /*ended*/) {
    if (is_blank(line)) return;
    prompts.push_back(parse_prompt(line, fmt::format("{}:{}", name, number)));
    prompts.back().index = static_cast<std::int64_t>(prompts.size()) - 1;
  });
  if (prompts.empty()) fail(ErrorCode::kBadFormat, "{}: has no prompts", name);
  return prompts;
}

}  // namespace winnow::cli
