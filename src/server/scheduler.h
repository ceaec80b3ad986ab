// Scheduler: one thread that owns the engine. Prompts are read one at a time, in the order they came; all
// answers under way are decoded together, a token each, also between the layers of a prefill, so that a long
// prompt does not stop the others' answers. Knows nothing of HTTP.
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

  void loop();
  std::shared_ptr<Job> next_job();
  void drop_gone_jobs();
  void start(const std::shared_ptr<Job>& job);
  std::unique_ptr<Session> read_prompt(Job& job, PromptReport& report);
  std::unique_ptr<Session> read_anew(Job& job, PromptReport& report);
  bool prefill(Job& job, Session& session, std::span<const TokenId> tokens, PromptReport& report);
  void decode_step();
  void advance(std::size_t index);
  void end_sequence(std::size_t index, bool keep_session);
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
