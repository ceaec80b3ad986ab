#include "server/request.h"

#include <fmt/format.h>

#include <limits>

#include "core/error.h"
#include "formats/json_text.h"
#include "server/api_error.h"
#include "server/fields.h"

namespace winnow {
namespace {

using nlohmann::json;

constexpr std::int64_t kMaxChoices = 128;
constexpr std::size_t kMaxStops = 16, kMaxStopBytes = 1024;
constexpr std::int64_t kMaxTokenId = std::numeric_limits<TokenId>::max();

// A message's text: a string, or a list of parts of type text.
std::string content_of(Fields& message) {
  const json* content = message.value("content");
  const std::string name = message.name("content");
  if (content == nullptr) bad_field(name, "is missing");
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) bad_field(name, "must be text or a list of parts, not {}", described(*content));
  if (content->empty()) bad_field(name, "is empty: give at least one part");
  std::string text;
  for (std::size_t i = 0; i < content->size(); ++i) {
    Fields part((*content)[i], fmt::format("{}[{}]", name, i));
    const auto type = part.text("type");
    if (type != "text") bad_field(part.name("type"), "must be \"text\": this server reads text only");
    const auto piece = part.text("text");
    if (!piece) bad_field(part.name("text"), "is missing");
    text += *piece;
    part.done();
  }
  return text;
}

ChatMessage message_of(const json& value, std::size_t index) {
  Fields message(value, fmt::format("messages[{}]", index));
  auto role = message.text("role");
  if (!role) bad_field(message.name("role"), "is missing");
  if (role == "developer") role = "system";
  if (role != "system" && role != "user" && role != "assistant")
    bad_field(message.name("role"), "must be system, developer, user or assistant");
  ChatMessage result{*role, content_of(message)};
  message.only("tool_calls", json::array(), "tools are not supported");
  message.done();
  return result;
}

std::vector<ChatMessage> messages_of(Fields& fields) {
  const json* messages = fields.value("messages");
  if (messages == nullptr) bad_field("messages", "is missing");
  if (!messages->is_array()) bad_field("messages", "must be a list, not {}", described(*messages));
  if (messages->empty()) bad_field("messages", "is empty: give at least one message");
  std::vector<ChatMessage> result;
  for (std::size_t i = 0; i < messages->size(); ++i) result.push_back(message_of((*messages)[i], i));
  return result;
}

std::vector<std::string> stops_of(Fields& fields) {
  const json* stop = fields.value("stop");
  if (stop == nullptr) return {};
  const json list = stop->is_string() ? json::array({*stop}) : *stop;
  if (!list.is_array()) bad_field("stop", "must be text or a list of texts, not {}", described(*stop));
  if (list.size() > kMaxStops)
    bad_field("stop", "has {} texts, at most {} are taken", list.size(), kMaxStops);
  std::vector<std::string> result;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string name = stop->is_string() ? "stop" : fmt::format("stop[{}]", i);
    if (!list[i].is_string()) bad_field(name, "must be text, not {}", described(list[i]));
    result.push_back(list[i].get<std::string>());
    if (result.back().empty()) bad_field(name, "is empty");
    if (result.back().size() > kMaxStopBytes)
      bad_field(name, "has {} bytes, at most {} are taken", result.back().size(), kMaxStopBytes);
  }
  return result;
}

bool is_session_name(const std::string& name) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
  return !name.empty() && name.size() <= 64 && name.find_first_not_of(kAllowed) == std::string::npos;
}

WinnowField winnow_field(Fields& fields) {
  WinnowField result;
  const json* value = fields.value("winnow");
  if (value == nullptr) return result;
  Fields winnow(*value, "winnow");
  result.policy = winnow.text("policy");
  result.max_kl = winnow.number("max_kl", 0, 100);
  if (result.policy && result.max_kl)
    bad_field("winnow.max_kl", "cannot be given together with winnow.policy");
  result.session = winnow.text("session");
  if (result.session && !is_session_name(*result.session))
    bad_field("winnow.session", "must be 1 to 64 letters, digits, '_' and '-'");
  result.prefix_cache = winnow.flag("prefix_cache").value_or(true);
  result.positions = winnow.flag("positions").value_or(false);
  result.pieces = winnow.flag("pieces").value_or(false);
  result.ignore_eos = winnow.flag("ignore_eos").value_or(false);
  winnow.done();
  return result;
}

// "": not given.
std::string model_of(Fields& fields) {
  const auto model = fields.text("model");
  if (model == "") bad_field("model", "is empty: name the model, or leave it out");
  return model.value_or("");
}

void read_sampling(Fields& fields, AnswerRequest& request) {
  request.sampling.temperature = fields.number("temperature", 0, 2).value_or(1);
  // The sampler wants a share above 0; the least there is leaves the likeliest token, which is what 0 asks
  // for.
  request.sampling.top_p = std::max(fields.number("top_p", 0, 1).value_or(1), 1e-9);
  request.sampling.top_k = fields.integer("top_k", 0, std::int64_t{1} << 30).value_or(0);
  const auto seed = fields.integer("seed", std::numeric_limits<std::int64_t>::min(),
                                   std::numeric_limits<std::int64_t>::max());
  request.seeded = seed.has_value();
  request.sampling.seed = static_cast<std::uint64_t>(seed.value_or(0));
}

// Fields that both kinds of answers have.
void read_common(Fields& fields, AnswerRequest& request) {
  request.model = model_of(fields);
  read_sampling(fields, request);
  request.stop = stops_of(fields);
  request.choices = fields.integer("n", 1, kMaxChoices).value_or(1);
  request.stream = fields.flag("stream").value_or(false);
  if (const json* options = fields.value("stream_options")) {
    if (!request.stream) bad_field("stream_options", "needs stream");
    Fields inner(*options, "stream_options");
    request.include_usage = inner.flag("include_usage").value_or(false);
    inner.only("include_obfuscation", false, "is not supported");
    inner.done();
  }
  request.winnow = winnow_field(fields);
  fields.only("presence_penalty", 0, "is not supported: leave it out or give 0");
  fields.only("frequency_penalty", 0, "is not supported: leave it out or give 0");
  fields.only("logit_bias", json::object(), "is not supported");
  fields.without_effect("user");
}

void refuse_what_chat_cannot(Fields& fields) {
  fields.only("tools", json::array(), "is not supported: this server calls no tools");
  fields.only("tool_choice", "none", "is not supported: this server calls no tools");
  fields.only("functions", json::array(), "is not supported: this server calls no functions");
  fields.only("function_call", "none", "is not supported: this server calls no functions");
  fields.only("response_format", {{"type", "text"}}, "only {\"type\": \"text\"} is supported");
  fields.only("modalities", json::array({"text"}), "only [\"text\"] is supported");
  fields.only("store", false, "is not supported: nothing is stored");
  for (const char* key : {"metadata", "service_tier", "safety_identifier", "prompt_cache_key"})
    fields.without_effect(key);
}

void read_prompt(Fields& fields, AnswerRequest& request) {
  const json* prompt = fields.value("prompt");
  if (prompt == nullptr) bad_field("prompt", "is missing");
  if (prompt->is_array() && prompt->size() == 1 &&
      (prompt->front().is_string() || prompt->front().is_array()))
    prompt = &prompt->front();
  if (prompt->is_string()) {
    request.prompt = prompt->get<std::string>();
    if (request.prompt.empty()) bad_field("prompt", "is empty");
    return;
  }
  if (!prompt->is_array())
    bad_field("prompt", "must be text or a list of token ids, not {}", described(*prompt));
  if (prompt->empty()) bad_field("prompt", "is empty");
  for (std::size_t i = 0; i < prompt->size(); ++i) {
    const json& id = (*prompt)[i];
    if (id.is_string() || id.is_array())
      bad_field("prompt", "has {} prompts: give one a request", prompt->size());
    const bool fits = id.is_number_integer() && id.get<double>() >= 0 && id.get<double>() <= kMaxTokenId;
    if (!fits) bad_field(fmt::format("prompt[{}]", i), "must be a token id, not {}", described(id));
    request.prompt_tokens.push_back(id.get<TokenId>());
  }
}

}  // namespace

json parse_body(std::string_view body) {
  try {
    return parse_json_object(body, "request body", std::numeric_limits<std::size_t>::max());
  } catch (const Error& error) {
    throw ApiError(400, "", "invalid_json", error.what());
  }
}

AnswerRequest parse_chat(const json& body) {
  Fields fields(body, "");
  AnswerRequest request;
  request.chat = true;
  request.messages = messages_of(fields);
  read_common(fields, request);
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  const auto older = fields.integer("max_tokens", 1, kMost);
  request.max_tokens = fields.integer("max_completion_tokens", 1, kMost);
  if (older && request.max_tokens)
    bad_field("max_tokens", "cannot be given together with max_completion_tokens");
  if (!request.max_tokens) request.max_tokens = older;
  const bool wanted = fields.flag("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, 20);
  if (top && !wanted) bad_field("top_logprobs", "needs logprobs");
  if (wanted) request.top_logprobs = static_cast<int>(top.value_or(0));
  refuse_what_chat_cannot(fields);
  fields.done();
  return request;
}

AnswerRequest parse_completion(const json& body) {
  constexpr std::int64_t kDefaultTokens = 16;  // as the API has it
  Fields fields(body, "");
  AnswerRequest request;
  read_prompt(fields, request);
  read_common(fields, request);
  request.max_tokens = fields.integer("max_tokens", 1, std::int64_t{1} << 30).value_or(kDefaultTokens);
  if (const auto top = fields.integer("logprobs", 0, 20)) request.top_logprobs = static_cast<int>(*top);
  fields.only("echo", false, "is not supported");
  fields.only("suffix", "", "is not supported");
  fields.only("best_of", 1, "is not supported: leave it out or give 1");
  fields.done();
  return request;
}

TokenizeRequest parse_tokenize(const json& body) {
  Fields fields(body, "");
  TokenizeRequest request;
  request.model = model_of(fields);
  const auto content = fields.text("content");
  if (fields.value("messages") != nullptr) {
    if (content) bad_field("content", "cannot be given together with messages");
    request.messages = messages_of(fields);
  } else if (!content) {
    bad_field("content", "is missing");
  } else {
    request.content = *content;
  }
  request.parse_special = fields.flag("parse_special").value_or(false);
  request.pieces = fields.flag("pieces").value_or(false);
  fields.done();
  return request;
}

}  // namespace winnow
