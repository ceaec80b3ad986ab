#include "server/answer_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "tokenizer/utf8.h"

namespace winnow {

using nlohmann::json;

std::string dump(const json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

namespace {

std::string bytes_of(const json& entry) {
  std::string bytes;
  for (const json& byte : entry["bytes"]) bytes += static_cast<char>(byte.get<int>());
  return bytes;
}

// Those that begin in `bytes`: a character that several tokens share is the first one's.
std::int64_t characters_in(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
}

// A token as the older API names it: its text, or its bytes ("bytes:\\xe2\\x80") where they are no text of
// their own, so that tokens keep different names.
std::string plain_name(const json& entry) {
  const std::string bytes = bytes_of(entry);
  std::string escaped = "bytes:";
  for (const char byte : bytes) escaped += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
  return utf8_valid_prefix(bytes) == bytes.size() ? bytes : escaped;
}

}  // namespace

AnswerFormat::AnswerFormat(const AnswerRequest& request, const Tokenizer& tokenizer, AnswerHead head)
    : request_(request),
      tokenizer_(tokenizer),
      head_(std::move(head)),
      choices_(static_cast<std::size_t>(request.choices)) {}

std::vector<json> AnswerFormat::take(const JobEvent& event) {
  std::vector<json> chunks;
  if (const auto* prompt = std::get_if<PromptReport>(&event)) {
    prompt_ = *prompt;
    for (std::int64_t i = 0; i < request_.choices; ++i) {
      json first = request_.chat ? json{{"role", "assistant"}, {"content", ""}} : json("");
      chunks.push_back(chunk(i, std::move(first), nullptr, nullptr));
    }
    chunks.front()["winnow"] = winnow_prompt();
  } else if (const auto* part = std::get_if<AnswerPart>(&event)) {
    Choice& choice = choices_[static_cast<std::size_t>(part->choice)];
    choice.text += part->text;
    const std::int64_t offset = choice.logged_characters;
    json entries = json::array();
    for (const TokenLogprob& entry : part->logprobs) {
      entries.push_back(logprob_entry(entry));
      choice.logged_characters += characters_in(tokenizer_.token_bytes(entry.id));
    }
    choice.logprobs.insert(choice.logprobs.end(), entries.begin(), entries.end());
    if (!part->text.empty() || !entries.empty()) {
      json content = request_.chat ? json{{"content", part->text}} : json(part->text);
      chunks.push_back(chunk(part->choice, std::move(content),
                             entries.empty() ? json() : logprobs_json(entries, offset), nullptr));
    }
    if (part->finished) {
      choice.finish_reason = finish_reason_name(*part->finished);
      chunks.push_back(
          chunk(part->choice, request_.chat ? json::object() : json(""), nullptr, choice.finish_reason));
    }
  } else if (const auto* end = std::get_if<AnswerEnd>(&event)) {
    end_ = *end;
    if (request_.include_usage) {
      json last = frame(request_.chat ? "chat.completion.chunk" : "text_completion");
      last["choices"] = json::array();
      last["usage"] = usage();
      last["winnow"] = winnow_end();
      chunks.push_back(std::move(last));
    }
  }
  return chunks;
}

json AnswerFormat::whole() const {
  json result = frame(request_.chat ? "chat.completion" : "text_completion");
  json& choices = result["choices"] = json::array();
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    json entry = {{"index", i}, {"finish_reason", choice.finish_reason}, {"logprobs", nullptr}};
    if (request_.top_logprobs) entry["logprobs"] = logprobs_json(choice.logprobs, 0);
    if (request_.chat) {
      entry["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      entry["text"] = choice.text;
    }
    choices.push_back(std::move(entry));
  }
  result["usage"] = usage();
  result["winnow"] = winnow_prompt();
  result["winnow"].update(winnow_end());
  return result;
}

json AnswerFormat::frame(const char* object) const {
  return {{"id", head_.id},
          {"object", object},
          {"created", head_.created},
          {"model", head_.model},
          {"system_fingerprint", head_.fingerprint}};
}

json AnswerFormat::chunk(std::int64_t index, json content, const json& logprobs,
                         const json& finish_reason) const {
  json result = frame(request_.chat ? "chat.completion.chunk" : "text_completion");
  json choice = {{"index", index}, {"logprobs", logprobs}, {"finish_reason", finish_reason}};
  choice[request_.chat ? "delta" : "text"] = std::move(content);
  result["choices"] = json::array({std::move(choice)});
  if (request_.include_usage) result["usage"] = nullptr;  // the last chunk has it
  return result;
}

std::string AnswerFormat::token_text(TokenId id) const { return utf8_repair(tokenizer_.token_bytes(id)); }

json AnswerFormat::logprob_entry(const TokenLogprob& entry) const {
  const auto one = [&](TokenId id, double logprob) {
    json bytes = json::array();
    for (const char byte : tokenizer_.token_bytes(id)) bytes.push_back(static_cast<unsigned char>(byte));
    return json{{"token", token_text(id)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
  };
  json result = one(entry.id, entry.logprob);
  json& top = result["top_logprobs"] = json::array();
  for (const auto& [id, logprob] : entry.top) top.push_back(one(id, logprob));
  return result;
}

// `entries` as logprob_entry() makes them, in the form of the chat API or the older one, where the first of
// them begins at character `offset` of the answer.
json AnswerFormat::logprobs_json(const json& entries, std::int64_t offset) const {
  if (request_.chat) return {{"content", entries}, {"refusal", nullptr}};
  json result;
  for (const char* key : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
    result[key] = json::array();
  for (const json& entry : entries) {
    result["tokens"].push_back(plain_name(entry));
    result["token_logprobs"].push_back(entry["logprob"]);
    result["text_offset"].push_back(offset);
    offset += characters_in(bytes_of(entry));
    json top = {
        {plain_name(entry), entry["logprob"]}};  // the token itself, whether it is among the likeliest or not
    for (const json& other : entry["top_logprobs"]) top[plain_name(other)] = other["logprob"];
    result["top_logprobs"].push_back(std::move(top));
  }
  return result;
}

json AnswerFormat::usage() const {
  return {{"prompt_tokens", prompt_.prompt_tokens},
          {"completion_tokens", end_.completion_tokens},
          {"total_tokens", prompt_.prompt_tokens + end_.completion_tokens},
          {"prompt_tokens_details",
           {{"cached_tokens", prompt_.cached_tokens}, {"kept_tokens", prompt_.kept_tokens}}}};
}

json AnswerFormat::winnow_prompt() const {
  json result = {{"policy", head_.policy},
                 {"prompt_tokens", prompt_.prompt_tokens},
                 {"kept_tokens", prompt_.kept_tokens},
                 {"cached_tokens", prompt_.cached_tokens},
                 {"tokenise_ms", head_.tokenise_ms},
                 {"queue_ms", prompt_.queue_ms},
                 {"prefill_ms", prompt_.prefill_ms},
                 {"ttft_ms", head_.tokenise_ms + prompt_.queue_ms + prompt_.prefill_ms},
                 {"kv_lens", prompt_.kv_lens},
                 {"kv_bytes", prompt_.kv_bytes},
                 {"kv_bytes_dense", prompt_.kv_bytes_dense},
                 {"seed", head_.seed}};
  if (prompt_.pass) {
    result["density"] = prompt_.pass->density();
    result["attn_work"] = prompt_.pass->attn_work();
    result["avgtok"] = prompt_.pass->avgtok();
  }
  if (!prompt_.session.empty()) result["session"] = prompt_.session;
  json& stages = result["stages"] = json::array();
  for (std::size_t i = 0; i < prompt_.stages.size(); ++i) {
    stages.push_back(to_json(prompt_.stages[i]));
    if (i < prompt_.kept.size()) stages.back()["kept_positions"] = prompt_.kept[i];
  }
  if (!head_.pieces.empty()) result["pieces"] = head_.pieces;
  return result;
}

json AnswerFormat::winnow_end() const {
  json result = {{"decode_ms", end_.decode_ms}, {"timed_out", end_.timed_out}};
  if (end_.decode_ms > 0 && end_.decode_steps > 0)
    result["decode_tokens_per_s"] = 1000.0 * static_cast<double>(end_.decode_steps) / end_.decode_ms;
  return result;
}

}  // namespace winnow
