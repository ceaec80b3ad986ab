// What the tests of the scheduler and of HTTP share: jobs on the tiny model, and what they should answer.
#pragma once

#include <string>
#include <vector>

#include "runtime/generate.h"
#include "server/scheduler.h"
#include "support/session_testing.h"

namespace winnow {

inline JobSpec greedy(std::vector<TokenId> prompt, std::int64_t max_tokens, const Policy& policy = {}) {
  JobSpec spec;
  spec.prompt = std::move(prompt);
  spec.policy = policy;
  spec.max_tokens = max_tokens;
  spec.ignore_eos = true;
  spec.begins_text = false;
  return spec;
}

// What came of a job.
struct Outcome {
  PromptReport prompt;
  std::vector<std::string> texts;  // by choice
  std::vector<TokenLogprob> logprobs;
  std::optional<FinishReason> finished;
  AnswerEnd end;
  std::optional<ApiError> error;
};

inline Outcome outcome(Job& job) {
  Outcome result;
  result.texts.resize(static_cast<std::size_t>(job.spec.choices));
  for (;;) {
    const auto event = job.wait(std::chrono::seconds(30));
    if (!event) {
      ADD_FAILURE() << "a job never ended";
      return result;
    }
    if (const auto* prompt = std::get_if<PromptReport>(&*event)) result.prompt = *prompt;
    if (const auto* part = std::get_if<AnswerPart>(&*event)) {
      result.texts[static_cast<std::size_t>(part->choice)] += part->text;
      result.logprobs.insert(result.logprobs.end(), part->logprobs.begin(), part->logprobs.end());
      if (part->finished) result.finished = part->finished;
    }
    if (const auto* end = std::get_if<AnswerEnd>(&*event)) {
      result.end = *end;
      return result;
    }
    if (const auto* error = std::get_if<ApiError>(&*event)) {
      result.error = *error;
      return result;
    }
  }
}

// The answer of a session alone, without a server.
inline std::vector<TokenId> expected_tokens(const Engine& e, std::span<const TokenId> prompt,
                                            std::int64_t count, const Policy& policy = {}) {
  Session session(e);
  EXPECT_TRUE(session.prefill(prompt, policy, {}));
  Sampler sampler{SamplerOptions{}};
  GenerateOptions options;
  options.max_new_tokens = count;
  return generate(session, sampler, options).tokens;
}

inline std::string expected_text(const Engine& e, std::span<const TokenId> prompt, std::int64_t count,
                                 const Policy& policy = {}) {
  TokenStream stream(e.tokenizer(), /*begins_text=*/false);
  std::string text;
  for (const TokenId token : expected_tokens(e, prompt, count, policy)) text += stream.push(token);
  return text + stream.finish();
}

}  // namespace winnow
