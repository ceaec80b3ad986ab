// Job: one prompt on its way through the scheduler. The one who asked waits for its events; the inference
// thread makes them. Either side may be gone before the other.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/generate.h"
#include "runtime/sampler.h"
#include "runtime/session.h"
#include "server/api_error.h"
#include "sparsity/policy.h"

namespace winnow {

using Clock = std::chrono::steady_clock;

// What is to be done: tokens in, answers out. Checked already.
struct JobSpec {
  std::vector<TokenId> prompt;  // with room for an answer in the context
  Policy policy;
  SamplerOptions sampling;  // choice i samples with seed + i
  std::int64_t choices = 1;
  std::int64_t max_tokens = 128;
  std::vector<std::string> stop;
  std::optional<int> top_logprobs;
  bool begins_text = true;   // as AnswerText
  bool ignore_eos = false;   // stop tokens end nothing
  bool prefix_cache = true;  // may use and leave cached prefixes
  bool positions = false;    // report the tokens each stage kept
  std::string session_file;  // "": none; else the prompt's caches are kept there, or taken from there
};

// The prompt has been read.
struct PromptReport {
  std::int64_t prompt_tokens = 0, kept_tokens = 0;
  std::int64_t cached_tokens = 0;  // of a prefix that was not computed again
  double queue_ms = 0;             // waited for its turn
  double prefill_ms = 0;           // first token's logits, caches looked up; of all prompts read together
  std::optional<PassStats> pass;   // null where the caches came from a session file
  std::vector<StageRecord> stages;
  std::vector<std::vector<std::int32_t>> kept;  // [stages] places in the prompt, if wanted
  std::vector<std::int64_t> kv_lens;
  std::int64_t kv_bytes = 0, kv_bytes_dense = 0;
  std::string session;  // "", "saved" or "loaded"
};

struct TokenLogprob {
  TokenId id = 0;
  double logprob = 0;
  std::vector<std::pair<TokenId, double>> top;  // likeliest first
};

// A token of one choice, its text as far as it is certain; the last has the reason why it is the last.
struct AnswerPart {
  std::int64_t choice = 0;
  std::string text;
  std::vector<TokenLogprob> logprobs;
  std::optional<FinishReason> finished;
};

// All choices are finished.
struct AnswerEnd {
  std::int64_t completion_tokens = 0;
  double decode_ms = 0;  // after the first token
  std::int64_t decode_steps = 0;
  bool timed_out = false;
};

using JobEvent = std::variant<PromptReport, AnswerPart, AnswerEnd, ApiError>;

class Job {
 public:
  Job(JobSpec job, std::chrono::milliseconds limit_in) : spec(std::move(job)), limit(limit_in) {}

  const JobSpec spec;
  const std::chrono::milliseconds limit;
  const Clock::time_point created = Clock::now();
  const Clock::time_point deadline = created + limit;

  // The next event; nothing if none came in time. AnswerEnd and ApiError are the last.
  std::optional<JobEvent> wait(std::chrono::milliseconds timeout);
  // Whoever asked is gone: the inference thread drops the job at its next look.
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }

  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  void push(JobEvent event);

 private:
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<JobEvent> events_;
};

}  // namespace winnow
