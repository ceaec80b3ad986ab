// Sequence: one answer being decoded. Samples, turns tokens into text, and knows when the answer is over.
#pragma once

#include <memory>
#include <vector>

#include "runtime/answer_text.h"
#include "runtime/sampler.h"
#include "runtime/session.h"
#include "server/job.h"

namespace winnow {

class Sequence {
 public:
  // `session` has read the job's prompt. `tokenizer` must outlive it.
  Sequence(std::shared_ptr<Job> job, std::int64_t choice, std::unique_ptr<Session> session,
           const Tokenizer& tokenizer);

  Job& job() const { return *job_; }
  Session& session() const { return *session_; }
  TokenId last_token() const { return tokens_.back(); }  // not yet in the session's caches

  // Samples the next token from the session's logits and tells the job. False when that ended the answer.
  // Error when the model overflowed.
  bool advance();
  // Ends the answer here: its time is over.
  void finish(FinishReason reason);

  std::int64_t completion_tokens() const { return static_cast<std::int64_t>(tokens_.size()); }
  const std::vector<TokenId>& tokens() const { return tokens_; }
  std::unique_ptr<Session> release_session() { return std::move(session_); }

 private:
  TokenLogprob logprob_of(TokenId token) const;

  std::shared_ptr<Job> job_;
  std::int64_t choice_;
  std::unique_ptr<Session> session_;
  const Tokenizer& tokenizer_;
  Sampler sampler_;
  AnswerText text_;
  std::vector<TokenId> tokens_;  // of the answer
};

}  // namespace winnow
