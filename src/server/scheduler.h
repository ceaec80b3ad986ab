// Scheduler: one thread that owns the engine. Prompts are read in the order they came, short ones under dense
// policies together, others alone; all answers under way are decoded together, a token each, also between the
// layers of a prefill, so that a long prompt does not stop the others' answers. Knows nothing of HTTP.
//
// What may be reused: a prompt under a dense policy takes its beginning from the prefix cache and leaves its
// caches there. A prompt under any other policy is read anew: what was dropped, for the question at its end,
// says nothing about another question. Whoever wants pruned caches back names a session file, which is bound
// to the whole prompt.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "runtime/engine.h"
#include "server/job.h"
#include "server/metrics.h"
#include "server/prefix_cache.h"
#include "server/sequence.h"

namespace winnow {

struct SchedulerOptions {
  std::int64_t max_sequences = 8;  // answers decoded at once
  std::int64_t max_queue = 128;    // prompts that wait
  std::chrono::milliseconds request_timeout = std::chrono::minutes(10);
  std::int64_t prefix_cache_bytes = std::int64_t{512} << 20;
};

class Scheduler {
 public:
  // The engine, which must have a tokenizer, is not to be used elsewhere meanwhile; its tokenizer is.
  Scheduler(const Engine& engine, const SchedulerOptions& options, Metrics& metrics);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;
  ~Scheduler();  // stop()

  // Throws ApiError: 429 when the queue is full, 503 once drain() was called, 400 for more choices than can
  // ever run at once.
  std::shared_ptr<Job> submit(JobSpec spec);

  void drain();       // takes no more jobs; those it has go on
  bool idle() const;  // has none
  void stop();        // ends the jobs there are with an ApiError(503), and the thread

 private:
  struct Running;  // a job whose answers are being decoded
  // A job whose prompt is read next. Its session has what need not be read: a cached prefix, or all of it.
  struct Prompt {
    std::shared_ptr<Job> job;
    std::unique_ptr<Session> session;
    std::int64_t reserve_tokens = 0;
    PromptReport report;
    std::span<const TokenId> unread() const;
    bool loaded() const { return !report.session.empty(); }  // from its session file
  };

  void loop();
  void wait_for_neighbours(std::unique_lock<std::mutex>& lock);
  std::shared_ptr<Job> next_job(std::int64_t answers);
  void drop_gone_jobs();
  void read_waiting();
  std::int64_t rows_beside_others(const Prompt& prompt) const;
  std::optional<Prompt> take_up(const std::shared_ptr<Job>& job);
  std::unique_ptr<Session> session_for(const JobSpec& spec, PromptReport& report);
  void start(std::vector<Prompt> prompts);
  void start_one_by_one(std::vector<Prompt> prompts);
  bool read_alone(Prompt& prompt);
  bool read_together(std::span<Prompt> prompts);
  bool all_gone(std::span<const Prompt> prompts);
  void begin_answers(Prompt prompt);
  void decode_step();
  void advance(std::size_t index);
  void end_sequence(std::size_t index, bool keep_session);
  void end_job(Job& job, JobEvent last);
  void fail_job(Job& job, const ApiError& error);
  void fail_all(const ApiError& error);
  void keep_prefix(Sequence& sequence);
  void update_gauges();

  const Engine& engine_;
  const SchedulerOptions options_;
  Metrics& metrics_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> queue_;
  bool draining_ = false, stopping_ = false;
  std::int64_t unfinished_ = 0;  // jobs taken and not yet ended

  // The inference thread's own.
  struct Slot {
    std::shared_ptr<Running> running;
    std::unique_ptr<Sequence> sequence;
  };
  std::vector<Slot> active_;
  PrefixCache prefixes_;
  Clock::time_point last_step_end_{};
  double last_step_ms_ = 0;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace winnow
