#include "server/sequence.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace winnow {
namespace {

SamplerOptions with_seed(SamplerOptions options, std::int64_t choice) {
  options.seed += static_cast<std::uint64_t>(choice);
  return options;
}

double log_of_sum(std::span<const float> logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - highest);
  return highest + std::log(sum);
}

}  // namespace

Sequence::Sequence(std::shared_ptr<Job> job, std::int64_t choice, std::unique_ptr<Session> session,
                   const Tokenizer& tokenizer)
    : job_(std::move(job)),
      choice_(choice),
      session_(std::move(session)),
      tokenizer_(tokenizer),
      sampler_(with_seed(job_->spec.sampling, choice)),
      text_(tokenizer, job_->spec.begins_text, job_->spec.stop) {}

bool Sequence::advance() {
  const TokenId token = sampler_.sample(session_->logits());
  const std::vector<TokenId>& stops = tokenizer_.stop_tokens();
  if (!job_->spec.ignore_eos && std::find(stops.begin(), stops.end(), token) != stops.end()) {
    finish(FinishReason::kStop);
    return false;
  }
  AnswerPart part{.choice = choice_, .text = "", .logprobs = {}, .finished = {}};
  if (job_->spec.top_logprobs) part.logprobs.push_back(logprob_of(token));
  tokens_.push_back(token);
  part.text = text_.push(token);
  if (text_.stopped()) {
    part.finished = FinishReason::kStop;
  } else if (completion_tokens() >= job_->spec.max_tokens || session_->room() < 1) {
    part.finished = FinishReason::kLength;
    part.text += text_.finish();
  }
  const bool goes_on = !part.finished.has_value();
  job_->push(std::move(part));
  return goes_on;
}

void Sequence::finish(FinishReason reason) {
  job_->push(AnswerPart{.choice = choice_, .text = text_.finish(), .logprobs = {}, .finished = reason});
}

// Of the model's own distribution, whatever the sampling.
TokenLogprob Sequence::logprob_of(TokenId token) const {
  const std::span<const float> logits = session_->logits();
  const double total = log_of_sum(logits);
  TokenLogprob result{.id = token, .logprob = logits[static_cast<std::size_t>(token)] - total, .top = {}};
  const auto count = std::min<std::size_t>(static_cast<std::size_t>(*job_->spec.top_logprobs), logits.size());
  if (count == 0) return result;
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto higher = [&](TokenId a, TokenId b) {
    const float la = logits[static_cast<std::size_t>(a)], lb = logits[static_cast<std::size_t>(b)];
    return la != lb ? la > lb : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), higher);
  for (std::size_t i = 0; i < count; ++i)
    result.top.emplace_back(order[i], logits[static_cast<std::size_t>(order[i])] - total);
  return result;
}

}  // namespace winnow
