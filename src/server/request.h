// What clients ask for: the bodies of POST requests, checked and turned into plain data. Knows neither HTTP
// nor the model; every fault is an ApiError(400) that names the field.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/sampler.h"
#include "tokenizer/tokenizer.h"

namespace winnow {

// The `winnow` field of a request.
struct WinnowField {
  std::optional<std::string> policy;   // a name the server knows
  std::optional<double> max_kl;        // instead: the fastest calibrated policy that costs at most this
  std::optional<std::string> session;  // keep the prompt's caches under this name, or use those kept
  bool prefix_cache = true;            // false: neither uses nor leaves cached prefixes
  bool positions = false;              // answer with the tokens each stage kept
  bool pieces = false;                 // answer with the text of each prompt token
  bool ignore_eos = false;             // go on to max_tokens
};

struct AnswerRequest {
  bool chat = false;
  std::string model;                   // "": whichever there is
  std::vector<ChatMessage> messages;   // chat
  std::string prompt;                  // completion, unless
  std::vector<TokenId> prompt_tokens;  // completion: not empty, instead of `prompt`
  SamplerOptions sampling;             // the seed only if `seeded`
  bool seeded = false;
  std::optional<std::int64_t> max_tokens;
  std::vector<std::string> stop;
  std::int64_t choices = 1;
  std::optional<int> top_logprobs;  // log-probabilities wanted, with so many alternatives
  bool stream = false, include_usage = false;
  WinnowField winnow;
};

struct TokenizeRequest {
  std::string model, content;
  std::vector<ChatMessage> messages;  // not empty: instead of `content`
  bool parse_special = false, pieces = false;
};

// A request's body as JSON: one object, at most 64 levels deep, no key twice, UTF-8.
nlohmann::json parse_body(std::string_view body);

// /v1/chat/completions, /v1/completions, /tokenize
AnswerRequest parse_chat(const nlohmann::json& body);
AnswerRequest parse_completion(const nlohmann::json& body);
TokenizeRequest parse_tokenize(const nlohmann::json& body);

}  // namespace winnow
