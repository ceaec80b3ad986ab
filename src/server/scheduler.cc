#include "server/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <new>
#include <utility>

#include "core/elapsed.h"
#include "core/error.h"
#include "runtime/session_batch.h"
#include "runtime/session_file.h"

namespace winnow {
namespace {

// While a prompt is being read, answers under way get a token when it has had this long since the last one,
// and at least as long as that one took: reading keeps half of the time.
constexpr double kDecodeDuringPrefillMs = 50;
// Prompts are read together up to so many tokens, which fill the matrix products; more would only make the
// first of them wait.
constexpr std::int64_t kRowsTogether = 512;
// How long the first prompt after a pause waits for another one.
constexpr std::chrono::milliseconds kNeighbourWait{1};
// Room made for an answer at first; caches grow when it is used up.
constexpr std::int64_t kReserveTokens = 256;

ApiError as_api_error(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(std::move(thrown));
  } catch (const ApiError& error) {
    return error;
  } catch (const Error& error) {
    return to_api_error(error);
  } catch (const std::bad_alloc&) {
    return {503, "", "out_of_memory", "out of memory"};
  } catch (const std::exception& error) {
    return {500, "", "", fmt::format("unexpected: {}", error.what())};
  }
}

ApiError shutting_down() { return {503, "", "shutting_down", "the server is shutting down"}; }

ApiError out_of_time(const Job& job) {
  const std::chrono::duration<double> limit = job.limit;
  return {504, "", "timeout", fmt::format("no answer within the limit of {:g} s", limit.count())};
}

// Why a session's file could not be read or written, without the path under which the server keeps it.
ApiError session_error(const Error& error, const std::string& path) {
  std::string why = error.what();
  if (why.starts_with(path)) why.replace(0, path.size(), "winnow.session");
  switch (error.code()) {
    case ErrorCode::kBadArgument: return {409, "winnow.session", "session_mismatch", why};
    case ErrorCode::kBadFormat: return {409, "winnow.session", "session_damaged", why};
    default: return {500, "winnow.session", "session_file", why};
  }
}

bool out_of_time_now(const Job& job) { return Clock::now() >= job.deadline; }

}  // namespace

struct Scheduler::Running {
  std::shared_ptr<Job> job;
  std::int64_t left = 0;  // choices not finished
  AnswerEnd end;
  Clock::time_point first_token{};
};

Scheduler::Scheduler(const Engine& engine, const SchedulerOptions& options, Metrics& metrics)
    : engine_(engine), options_(options), metrics_(metrics), prefixes_(options.prefix_cache_bytes) {
  thread_ = std::thread([this] { loop(); });
}

Scheduler::~Scheduler() { stop(); }

std::shared_ptr<Job> Scheduler::submit(JobSpec spec) {
  if (spec.choices > options_.max_sequences) {
    bad_field("n", "is {}, this server decodes at most {} answers at once", spec.choices,
              options_.max_sequences);
  }
  auto job = std::make_shared<Job>(std::move(spec), options_.request_timeout);
  {
    const std::scoped_lock lock(mutex_);
    if (draining_ || stopping_) throw shutting_down();
    if (static_cast<std::int64_t>(queue_.size()) >= options_.max_queue) {
      ++metrics_.rejected;
      ApiError full(429, "", "queue_full",
                    fmt::format("{} requests are waiting already: try again later", queue_.size()));
      full.retry_after_s = 1;
      throw full;
    }
    queue_.push_back(job);
    ++unfinished_;
    metrics_.queued = static_cast<std::int64_t>(queue_.size());
  }
  wake_.notify_one();
  return job;
}

void Scheduler::drain() {
  const std::scoped_lock lock(mutex_);
  draining_ = true;
}

bool Scheduler::idle() const {
  const std::scoped_lock lock(mutex_);
  return unfinished_ == 0;
}

void Scheduler::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Scheduler::loop() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !queue_.empty() || !active_.empty(); });
      if (active_.empty()) wait_for_neighbours(lock);
      if (stopping_) break;
    }
    drop_gone_jobs();
    read_waiting();
    decode_step();
    update_gauges();
  }
  fail_all(shutting_down());
}

// What several clients send at once arrives within moments of each other, and costs less when read together.
void Scheduler::wait_for_neighbours(std::unique_lock<std::mutex>& lock) {
  for (std::size_t waiting = 0; waiting < queue_.size() && std::ssize(queue_) < options_.max_sequences;) {
    waiting = queue_.size();
    wake_.wait_for(lock, kNeighbourWait, [&] { return stopping_ || queue_.size() > waiting; });
  }
}

// The first that waits, if there is room for all of its answers beside `answers` that are about to begin.
std::shared_ptr<Job> Scheduler::next_job(std::int64_t answers) {
  const std::scoped_lock lock(mutex_);
  if (queue_.empty()) return nullptr;
  const auto room = options_.max_sequences - std::ssize(active_) - answers;
  if (queue_.front()->spec.choices > room) return nullptr;
  std::shared_ptr<Job> job = std::move(queue_.front());
  queue_.pop_front();
  return job;
}

void Scheduler::drop_gone_jobs() {
  std::vector<std::shared_ptr<Job>> gone;
  {
    const std::scoped_lock lock(mutex_);
    const auto stays = [](const std::shared_ptr<Job>& job) {
      return !job->cancelled() && !out_of_time_now(*job);
    };
    const auto end = std::stable_partition(queue_.begin(), queue_.end(), stays);
    gone.assign(end, queue_.end());
    queue_.erase(end, queue_.end());
  }
  for (const auto& job : gone) fail_job(*job, out_of_time(*job));
}

// Every job ends here. Whoever has its last event finds it counted no more.
void Scheduler::end_job(Job& job, JobEvent last) {
  {
    const std::scoped_lock lock(mutex_);
    --unfinished_;
  }
  job.push(std::move(last));
}

void Scheduler::fail_job(Job& job, const ApiError& error) {
  if (job.cancelled()) {
    ++metrics_.cancelled;
  } else if (error.status() == 504) {
    ++metrics_.timed_out;
  }
  end_job(job, error);
}

void Scheduler::fail_all(const ApiError& error) {
  std::deque<std::shared_ptr<Job>> waiting;
  {
    const std::scoped_lock lock(mutex_);
    waiting.swap(queue_);
  }
  for (const auto& job : waiting) fail_job(*job, error);
  for (Slot& slot : active_) {
    if (std::exchange(slot.running->left, 0) > 0) fail_job(*slot.running->job, error);
  }
  active_.clear();
}

// All that there is room for, in the order they came: neighbours together where they are short.
void Scheduler::read_waiting() {
  std::vector<Prompt> prompts;
  std::int64_t rows = 0, answers = 0;
  while (const std::shared_ptr<Job> job = next_job(answers)) {
    std::optional<Prompt> prompt = take_up(job);
    if (!prompt) continue;
    const std::int64_t more = rows_beside_others(*prompt);
    if (rows > 0 && rows + more > kRowsTogether) {
      start(std::exchange(prompts, {}));
      rows = answers = 0;
      drop_gone_jobs();
      update_gauges();
    }
    rows += more;
    answers += job->spec.choices;
    prompts.push_back(std::move(*prompt));
  }
  if (!prompts.empty()) start(std::move(prompts));
}

// Of the kRowsTogether that are read in one pass: all, where the prompt is read alone.
std::int64_t Scheduler::rows_beside_others(const Prompt& prompt) const {
  const JobSpec& spec = prompt.job->spec;
  if (!spec.policy.dense() || !spec.session_file.empty()) return kRowsTogether;
  return std::min(std::ssize(prompt.unread()), kRowsTogether);
}

std::span<const TokenId> Scheduler::Prompt::unread() const {
  return std::span(job->spec.prompt).subspan(static_cast<std::size_t>(session->tokens()));
}

// Nothing: the job failed.
std::optional<Scheduler::Prompt> Scheduler::take_up(const std::shared_ptr<Job>& job) {
  const JobSpec& spec = job->spec;
  try {
    Prompt prompt{.job = job, .session = nullptr, .report = {}};
    prompt.report.prompt_tokens = std::ssize(spec.prompt);
    prompt.session = session_for(spec, prompt.report);
    prompt.report.cached_tokens = prompt.session->tokens();
    if (prompt.loaded()) return prompt;
    const std::int64_t unread = std::ssize(prompt.unread()), room = prompt.session->room() - unread;
    prompt.reserve_tokens = std::clamp<std::int64_t>(std::min(spec.max_tokens, kReserveTokens), 0,
                                                     std::max<std::int64_t>(room, 0));
    prompt.session->check_prefill(unread, spec.policy, prompt.reserve_tokens);
    return prompt;
  } catch (...) {
    fail_job(*job, as_api_error(std::current_exception()));
    return std::nullopt;
  }
}

// With all of its prompt from its file; with a cached prefix where the policy is dense; or empty.
std::unique_ptr<Session> Scheduler::session_for(const JobSpec& spec, PromptReport& report) {
  if (!spec.session_file.empty() && std::filesystem::exists(spec.session_file)) {
    try {
      auto session = SessionFile::load(spec.session_file, engine_, spec.policy, spec.prompt);
      report.session = "loaded";
      return session;
    } catch (const Error& error) {
      throw session_error(error, spec.session_file);
    }
  }
  std::unique_ptr<Session> session;
  if (spec.policy.dense() && spec.prefix_cache) session = prefixes_.take(spec.prompt);
  return session != nullptr ? std::move(session) : std::make_unique<Session>(engine_);
}

void Scheduler::start(std::vector<Prompt> prompts) {
  const auto begin = Clock::now();
  for (Prompt& prompt : prompts) prompt.report.queue_ms = ms_since(prompt.job->created);
  bool read = false;
  try {
    read = prompts.size() == 1 ? read_alone(prompts.front()) : read_together(prompts);
  } catch (...) {
    const ApiError error = as_api_error(std::current_exception());
    if (prompts.size() > 1 && error.code() == "out_of_memory") {
      start_one_by_one(std::move(prompts));
    } else {
      for (const Prompt& prompt : prompts) fail_job(*prompt.job, error);
    }
    return;
  }
  const double prefill_ms = ms_since(begin);
  if (read) metrics_.prefill_time.add_ms(prefill_ms);  // one pass, however many prompts
  for (Prompt& prompt : prompts) {
    const Job& job = *prompt.job;
    const bool late = out_of_time_now(job);  // in a batch, the others go on
    if (read && !late && !job.cancelled()) {
      prompt.report.prefill_ms = prefill_ms;
      begin_answers(std::move(prompt));
    } else {
      fail_job(*prompt.job, late ? out_of_time(job) : shutting_down());
    }
  }
}

// Each had enough memory when it was taken up: those for which it still is enough are read.
void Scheduler::start_one_by_one(std::vector<Prompt> prompts) {
  for (Prompt& prompt : prompts) {
    std::vector<Prompt> one;
    one.push_back(std::move(prompt));
    start(std::move(one));
  }
}

// False, here and below: nobody waits for it any more.
bool Scheduler::read_alone(Prompt& prompt) {
  if (prompt.loaded()) return true;
  const JobSpec& spec = prompt.job->spec;
  PrefillOptions options;
  options.reserve_tokens = prompt.reserve_tokens;
  options.cancelled = [&] { return all_gone({&prompt, 1}); };
  if (spec.positions) {
    options.on_stage = [&](const StageRecord&, std::span<const std::int32_t> places) {
      prompt.report.kept.emplace_back(places.begin(), places.end());
    };
  }
  ++metrics_.prefill_passes;
  if (!prompt.session->prefill(prompt.unread(), spec.policy, options)) return false;
  prompt.report.pass = prompt.session->prefill_stats();
  prompt.report.stages = prompt.session->stages();
  if (spec.session_file.empty()) return true;
  try {
    SessionFile::save(spec.session_file, engine_, *prompt.session, spec.policy, spec.prompt);
  } catch (const Error& error) {
    throw session_error(error, spec.session_file);
  }
  prompt.report.session = "saved";
  return true;
}

// Every short prompt alone would stream all weights for a few rows.
bool Scheduler::read_together(std::span<Prompt> prompts) {
  std::vector<Reading> readings;
  for (const Prompt& prompt : prompts) {
    readings.push_back({.session = prompt.session.get(),
                        .tokens = prompt.unread(),
                        .reserve_tokens = prompt.reserve_tokens});
  }
  ++metrics_.prefill_passes;
  if (!prefill_batch(readings, [&] { return all_gone(prompts); })) return false;
  for (Prompt& prompt : prompts) prompt.report.pass = prompt.session->prefill_stats();
  return true;
}

// Asked between layers, where the answers under way get a token when it is time, and those who wait may go.
bool Scheduler::all_gone(std::span<const Prompt> prompts) {
  const double pause = std::max(kDecodeDuringPrefillMs, last_step_ms_);
  if (!active_.empty() && ms_since(last_step_end_) >= pause) decode_step();
  drop_gone_jobs();
  const std::scoped_lock lock(mutex_);
  return stopping_ || std::all_of(prompts.begin(), prompts.end(), [](const Prompt& prompt) {
           return prompt.job->cancelled() || out_of_time_now(*prompt.job);
         });
}

void Scheduler::begin_answers(Prompt prompt) {
  const std::shared_ptr<Job> job = prompt.job;
  PromptReport report = std::move(prompt.report);
  report.kv_lens = prompt.session->kv_lens();
  report.kv_bytes = prompt.session->kv_bytes();
  report.kv_bytes_dense = engine_.estimate(report.prompt_tokens, 0, Policy{}).kv;
  report.kept_tokens = report.session == "loaded" ? report.kv_lens.back()
                       : report.stages.empty()    ? report.prompt_tokens
                                                  : report.stages.back().tokens_kept;
  const auto running = std::make_shared<Running>();
  running->job = job;
  running->left = job->spec.choices;
  std::vector<Slot> slots;
  try {
    for (std::int64_t i = 1; i < job->spec.choices; ++i) {
      slots.push_back(
          {running, std::make_unique<Sequence>(job, i, prompt.session->copy(), engine_.tokenizer())});
    }
    slots.insert(slots.begin(), Slot{running, std::make_unique<Sequence>(job, 0, std::move(prompt.session),
                                                                         engine_.tokenizer())});
  } catch (...) {
    fail_job(*job, as_api_error(std::current_exception()));
    return;
  }
  running->first_token = Clock::now();
  metrics_.prompt_tokens += report.prompt_tokens;
  metrics_.kept_tokens += report.kept_tokens;
  metrics_.cached_tokens += report.cached_tokens;
  metrics_.queue_time.add_ms(report.queue_ms);
  metrics_.first_token_time.add_ms(ms_since(job->created));
  job->push(std::move(report));
  const std::size_t first = active_.size();
  for (Slot& slot : slots) active_.push_back(std::move(slot));
  for (std::size_t i = active_.size(); i-- > first;) advance(i);
}

// A token for every answer under way.
void Scheduler::decode_step() {
  const auto begin = Clock::now();
  for (std::size_t i = active_.size(); i-- > 0;) {
    Slot& slot = active_[i];
    Job& job = slot.sequence->job();
    if (slot.running->left == 0) {  // its job failed
      active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
    } else if (job.cancelled()) {
      end_sequence(i, /*keep_session=*/false);
    } else if (out_of_time_now(job)) {
      slot.running->end.timed_out = true;
      slot.sequence->finish(FinishReason::kLength);
      end_sequence(i, /*keep_session=*/false);
    }
  }
  if (active_.empty()) return;
  try {
    std::vector<Session*> sessions;
    std::vector<TokenId> tokens;
    for (const Slot& slot : active_) {
      sessions.push_back(&slot.sequence->session());
      tokens.push_back(slot.sequence->last_token());
    }
    decode_batch(sessions, tokens);
  } catch (...) {
    const ApiError error = as_api_error(std::current_exception());
    for (Slot& slot : active_) {
      if (std::exchange(slot.running->left, 0) > 0) fail_job(*slot.running->job, error);
    }
    active_.clear();
    return;
  }
  for (std::size_t i = active_.size(); i-- > 0;) {
    ++active_[i].running->end.decode_steps;
    advance(i);
  }
  last_step_ms_ = ms_since(begin);
  last_step_end_ = Clock::now();
  metrics_.decode_step_time.add_ms(last_step_ms_);
}

void Scheduler::advance(std::size_t index) {
  Slot& slot = active_[index];
  if (slot.running->left == 0) return;  // another of its answers failed
  try {
    if (slot.sequence->advance()) return;
  } catch (...) {
    slot.running->left = 0;
    fail_job(*slot.running->job, as_api_error(std::current_exception()));
    active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(index));
    return;
  }
  end_sequence(index, /*keep_session=*/true);
}

void Scheduler::end_sequence(std::size_t index, bool keep_session) {
  const Slot slot = std::move(active_[index]);
  active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(index));
  Running& running = *slot.running;
  metrics_.generated_tokens += slot.sequence->completion_tokens();
  running.end.completion_tokens += slot.sequence->completion_tokens();
  if (keep_session) keep_prefix(*slot.sequence);
  if (--running.left > 0) return;
  Job& job = *running.job;
  if (job.cancelled()) {
    ++metrics_.cancelled;
  } else if (running.end.timed_out) {
    ++metrics_.timed_out;
  }
  running.end.decode_ms = ms_since(running.first_token);
  metrics_.request_time.add_ms(ms_since(job.created));
  end_job(job, running.end);
}

void Scheduler::keep_prefix(Sequence& sequence) {
  const JobSpec& spec = sequence.job().spec;
  if (!spec.policy.dense() || !spec.prefix_cache || !sequence.session().complete()) return;
  std::vector<TokenId> tokens = spec.prompt;
  tokens.insert(tokens.end(), sequence.tokens().begin(), sequence.tokens().end());
  tokens.resize(static_cast<std::size_t>(sequence.session().tokens()));
  prefixes_.put(sequence.release_session(), std::move(tokens));
}

void Scheduler::update_gauges() {
  std::int64_t bytes = 0;
  for (const Slot& slot : active_) bytes += slot.sequence->session().kv_bytes();
  metrics_.kv_bytes = bytes;
  metrics_.running = static_cast<std::int64_t>(active_.size());
  metrics_.prefix_bytes = prefixes_.bytes();
  metrics_.prefix_entries = prefixes_.entries();
  const std::scoped_lock lock(mutex_);
  metrics_.queued = static_cast<std::int64_t>(queue_.size());
}

}  // namespace winnow
