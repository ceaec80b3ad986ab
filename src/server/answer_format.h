// AnswerFormat: the events of a job as OpenAI's JSON, whole or in chunks. One for each request.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/job.h"
#include "server/request.h"
#include "tokenizer/tokenizer.h"

namespace winnow {

// What is known of an answer before it is made.
struct AnswerHead {
  std::string id, model, fingerprint, policy;
  std::int64_t created = 0;  // Unix time
  double tokenise_ms = 0;
  std::uint64_t seed = 0;
  std::vector<std::string> pieces;  // texts of the prompt's tokens, if wanted
};

class AnswerFormat {
 public:
  // `request` and `tokenizer` must outlive it.
  AnswerFormat(const AnswerRequest& request, const Tokenizer& tokenizer, AnswerHead head);

  // Takes the next event; an ApiError is the caller's. What is to be streamed for it, in order.
  std::vector<nlohmann::json> take(const JobEvent& event);

  // The whole response, once AnswerEnd was taken.
  nlohmann::json whole() const;

 private:
  struct Choice {
    std::string text;
    nlohmann::json logprobs = nlohmann::json::array();  // chat: entries; completion: [token, logprob, top]
    std::int64_t logged_characters = 0;                 // of the tokens in `logprobs`
    std::string finish_reason;
  };

  nlohmann::json frame(const char* object) const;
  nlohmann::json chunk(std::int64_t index, nlohmann::json content, const nlohmann::json& logprobs,
                       const nlohmann::json& finish_reason) const;
  nlohmann::json logprob_entry(const TokenLogprob& entry) const;
  nlohmann::json logprobs_json(const nlohmann::json& entries, std::int64_t offset) const;
  nlohmann::json usage() const;
  nlohmann::json winnow_prompt() const;
  nlohmann::json winnow_end() const;
  std::string token_text(TokenId id) const;

  const AnswerRequest& request_;
  const Tokenizer& tokenizer_;
  AnswerHead head_;
  PromptReport prompt_;
  AnswerEnd end_;
  std::vector<Choice> choices_;
};

// JSON as it is sent: text that is no UTF-8 is repaired.
std::string dump(const nlohmann::json& json);

}  // namespace winnow
