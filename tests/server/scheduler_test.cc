#include "server/scheduler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <thread>

#include "serving.h"
#include "support/little_memory.h"
#include "support/scratch.h"

namespace winnow {
namespace {

class SchedulerTest : public testing::Test {
 protected:
  Metrics metrics_;
  Scheduler scheduler_{engine(), {}, metrics_};

  Outcome run(JobSpec spec) { return outcome(*scheduler_.submit(std::move(spec))); }

  // A job that takes all the room: what is submitted afterwards waits until it is cancelled.
  std::shared_ptr<Job> take_all_room() {
    JobSpec all_room = greedy(some_tokens(4), 500);
    all_room.choices = SchedulerOptions{}.max_sequences;
    auto occupied = scheduler_.submit(all_room);
    occupied->wait(std::chrono::seconds(30));  // its prompt has been read
    return occupied;
  }

  std::vector<std::shared_ptr<Job>> submit_all(const std::vector<std::vector<TokenId>>& prompts,
                                               std::int64_t max_tokens = 8, const Policy& policy = {}) {
    std::vector<std::shared_ptr<Job>> jobs;
    for (const auto& prompt : prompts) jobs.push_back(scheduler_.submit(greedy(prompt, max_tokens, policy)));
    return jobs;
  }

  std::vector<Outcome> run_at_once(const std::vector<std::vector<TokenId>>& prompts, const Policy& policy) {
    const auto occupied = take_all_room();
    const auto jobs = submit_all(prompts, 8, policy);
    occupied->cancel();
    std::vector<Outcome> outcomes;
    for (const auto& job : jobs) outcomes.push_back(outcome(*job));
    return outcomes;
  }
};

TEST_F(SchedulerTest, AnswersAsASessionDoes) {
  const auto prompt = some_tokens(40);
  const Outcome result = run(greedy(prompt, 12));
  EXPECT_EQ(result.texts[0], expected_text(engine(), prompt, 12));
  EXPECT_EQ(result.finished, FinishReason::kLength);
  EXPECT_EQ(result.end.completion_tokens, 12);
  EXPECT_EQ(result.prompt.prompt_tokens, 40);
  EXPECT_EQ(result.prompt.kept_tokens, 40);
  EXPECT_EQ(result.prompt.kv_bytes, result.prompt.kv_bytes_dense);
  EXPECT_TRUE(scheduler_.idle());
}

TEST_F(SchedulerTest, ManyAtOnce) {
  const auto policy_of = [](int i) { return i % 2 == 0 ? Policy{} : staged(ScorerKind::kAttention, 0.5); };
  std::vector<std::shared_ptr<Job>> jobs;
  for (int i = 0; i < 20; ++i)
    jobs.push_back(scheduler_.submit(greedy(some_tokens(30 + i, i), 10, policy_of(i))));
  std::vector<std::string> texts;
  for (const auto& job : jobs) texts.push_back(outcome(*job).texts[0]);
  // All of them first: the engine is the scheduler's as long as it has work.
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(texts[static_cast<std::size_t>(i)],
              expected_text(engine(), some_tokens(30 + i, i), 10, policy_of(i)))
        << i;
  }
}

// Short prompts that wait next to each other are read in one pass.
TEST_F(SchedulerTest, ShortPromptsAreReadTogether) {
  const std::vector<TokenId> shared = some_tokens(60, 9);
  run(greedy(shared, 2));  // leaves a prefix
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < 6; ++i) {
    prompts.push_back(some_tokens(20 + 9 * i, i));
    if (i % 2 == 0) prompts.back().insert(prompts.back().begin(), shared.begin(), shared.end());
  }
  const std::vector<Outcome> outcomes = run_at_once(prompts, {});
  EXPECT_EQ(metrics_.prefill_passes, 3);  // of the prefix, of what occupied the scheduler, of these
  EXPECT_NE(metrics_.text().find("winnow_prefill_seconds_count 3\n"), std::string::npos) << metrics_.text();
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(outcomes[i].texts[0], expected_text(engine(), prompts[i], 8));
    EXPECT_EQ(outcomes[i].prompt.kept_tokens, std::ssize(prompts[i]));
    EXPECT_EQ(outcomes[i].prompt.kv_bytes, outcomes[i].prompt.kv_bytes_dense);
    EXPECT_EQ(outcomes[i].prompt.cached_tokens, i % 2 == 0 ? 60 : 0);
  }
}

// The batch needs more memory than there is, each of its prompts less.
TEST_F(SchedulerTest, ABatchTooLargeForMemoryIsReadOneByOne) {
  if (!LittleMemory::possible()) GTEST_SKIP() << "memory cannot be limited under a sanitizer";
  constexpr std::int64_t kTokens = 60, kAnswer = 200;
  const auto needed = [](std::int64_t prompts) {
    const MemoryEstimate estimate = engine().estimate_here(prompts * kTokens, prompts * kAnswer, {});
    return estimate.kv + estimate.activations;
  };
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < 8; ++i) prompts.push_back(some_tokens(kTokens, i));
  run(greedy(prompts[0], kAnswer));  // whatever is made once is there
  const auto occupied = take_all_room();
  const std::int64_t passes = metrics_.prefill_passes;
  const auto jobs = submit_all(prompts, kAnswer);
  std::vector<Outcome> outcomes;
  {
    const LittleMemory little((needed(1) + needed(8)) / 2);
    occupied->cancel();
    for (const auto& job : jobs) outcomes.push_back(outcome(*job));
  }
  EXPECT_EQ(metrics_.prefill_passes - passes, 1 + 8);  // tried together, then one by one
  EXPECT_FALSE(outcomes[0].error);
  for (std::size_t i = 0; i < outcomes.size(); ++i) {  // as many as there is memory for
    SCOPED_TRACE(i);
    if (outcomes[i].error) {
      EXPECT_EQ(outcomes[i].error->code(), "out_of_memory");
    } else {
      EXPECT_EQ(outcomes[i].texts[0], expected_text(engine(), prompts[i], kAnswer));
    }
  }
  EXPECT_EQ(run(greedy(prompts[7], 8)).texts[0], expected_text(engine(), prompts[7], 8));
  EXPECT_TRUE(scheduler_.idle());
}

// Whoever goes away, before or while the prompts are read, takes nothing from the others.
TEST_F(SchedulerTest, CancellingOneOfABatchLeavesTheOthers) {
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < 4; ++i) prompts.push_back(some_tokens(110 + i, i));
  for (int round = 0; round < 12; ++round) {
    const auto occupied = take_all_room();
    const auto jobs = submit_all(prompts);
    occupied->cancel();
    std::this_thread::sleep_for(std::chrono::microseconds(400 * round));
    const std::size_t gone = round % prompts.size();
    jobs[gone]->cancel();
    std::vector<Outcome> outcomes;
    for (const auto& job : jobs) outcomes.push_back(outcome(*job));
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      SCOPED_TRACE(i);
      if (i != gone) {
        EXPECT_EQ(outcomes[i].texts[0], expected_text(engine(), prompts[i], 8));
      }
    }
  }
  EXPECT_TRUE(scheduler_.idle());
}

TEST_F(SchedulerTest, PromptsThatPruneAreReadAlone) {
  const std::vector<std::vector<TokenId>> prompts{some_tokens(30, 1), some_tokens(400, 2), some_tokens(40, 3),
                                                  some_tokens(300, 4)};
  const std::vector<Outcome> dense = run_at_once(prompts, {});
  EXPECT_EQ(metrics_.prefill_passes, 1 + 2);  // the last would be too many rows
  const Policy policy = staged(ScorerKind::kAttention, 0.5);
  const std::vector<Outcome> pruned = run_at_once(prompts, policy);
  EXPECT_EQ(metrics_.prefill_passes, 3 + 1 + 4);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(dense[i].texts[0], expected_text(engine(), prompts[i], 8));
    EXPECT_EQ(pruned[i].texts[0], expected_text(engine(), prompts[i], 8, policy));
  }
}

TEST_F(SchedulerTest, ChoicesSampleForThemselves) {
  JobSpec spec = greedy(some_tokens(40), 12);
  spec.choices = 3;
  const Outcome same = run(spec);
  EXPECT_EQ(same.texts[0], expected_text(engine(), some_tokens(40), 12));
  EXPECT_EQ(same.texts[1], same.texts[0]);
  EXPECT_EQ(same.end.completion_tokens, 36);
  spec.sampling = {.temperature = 2, .seed = 5};
  const Outcome different = run(spec);
  EXPECT_NE(different.texts[1], different.texts[0]);
  spec.choices = 1;
  spec.sampling.seed = 6;
  EXPECT_EQ(run(spec).texts[0], different.texts[1]);
  spec.choices = 9;
  EXPECT_THROW(scheduler_.submit(spec), ApiError);
}

TEST_F(SchedulerTest, StopStrings) {
  const auto prompt = some_tokens(40);
  const std::string whole = expected_text(engine(), prompt, 12);
  JobSpec spec = greedy(prompt, 12);
  spec.stop = {whole.substr(whole.size() / 2, 3)};
  const Outcome result = run(spec);
  EXPECT_EQ(result.texts[0], whole.substr(0, whole.find(spec.stop[0])));
  EXPECT_EQ(result.finished, FinishReason::kStop);
}

TEST_F(SchedulerTest, Logprobs) {
  JobSpec spec = greedy(some_tokens(40), 4);
  spec.top_logprobs = 5;
  const Outcome result = run(spec);
  ASSERT_EQ(result.logprobs.size(), 4u);
  for (const TokenLogprob& entry : result.logprobs) {
    ASSERT_EQ(entry.top.size(), 5u);
    EXPECT_EQ(entry.top[0].first, entry.id);  // greedy
    EXPECT_EQ(entry.top[0].second, entry.logprob);
    EXPECT_LT(entry.logprob, 0);
    for (std::size_t i = 1; i < entry.top.size(); ++i)
      EXPECT_LE(entry.top[i].second, entry.top[i - 1].second);
  }
  spec.top_logprobs = 320;  // the whole vocabulary
  const Outcome whole = run(spec);
  double sum = 0;
  for (const auto& [id, logprob] : whole.logprobs.at(0).top) sum += std::exp(logprob);
  EXPECT_NEAR(sum, 1, 1e-6);
}

// What is read on top of a prefix sees it in 8 bits, so the answer need not be that of a prompt read at once.
TEST(Q8Scheduler, AnswersAndReusesPrefixes) {
  const Engine& e = engine("tiny-llama", "cpu", Precision::kF32, KvType::kQ8);
  Metrics metrics;
  Scheduler scheduler(e, {}, metrics);
  std::vector<TokenId> prompt = some_tokens(100), longer = prompt;
  const Outcome first = outcome(*scheduler.submit(greedy(prompt, 8)));
  EXPECT_EQ(first.texts[0], expected_text(e, prompt, 8));
  EXPECT_EQ(first.prompt.kv_bytes, first.prompt.kv_bytes_dense);
  for (const TokenId token : some_tokens(20, 7)) longer.push_back(token);
  const Outcome second = outcome(*scheduler.submit(greedy(longer, 8)));
  EXPECT_EQ(second.prompt.cached_tokens, 100);
  EXPECT_EQ(second.end.completion_tokens, 8);
  const Outcome pruned = outcome(*scheduler.submit(greedy(prompt, 8, staged(ScorerKind::kAttention, 0.5))));
  EXPECT_EQ(pruned.texts[0], expected_text(e, prompt, 8, staged(ScorerKind::kAttention, 0.5)));
}

TEST_F(SchedulerTest, PrefixesAreReusedDensely) {
  std::vector<TokenId> first = some_tokens(100), second = first, longer = first;
  second.resize(60);
  for (const TokenId token : some_tokens(50, 7)) second.push_back(token);
  EXPECT_EQ(run(greedy(first, 8)).prompt.cached_tokens, 0);
  const Outcome shared = run(greedy(second, 8));  // branches off: a copy
  EXPECT_EQ(shared.prompt.cached_tokens, 60);
  EXPECT_EQ(shared.texts[0], expected_text(engine(), second, 8));
  for (const TokenId token : expected_tokens(engine(), first, 8)) longer.push_back(token);
  const Outcome continued = run(greedy(longer, 8));  // goes on where the first ended: handed over
  EXPECT_EQ(continued.prompt.cached_tokens, 107);
  EXPECT_EQ(continued.texts[0], expected_text(engine(), longer, 8));
  const Outcome again = run(greedy(first, 8));
  EXPECT_EQ(again.prompt.cached_tokens, 99);
  EXPECT_EQ(again.texts[0], expected_text(engine(), first, 8));
  JobSpec alone = greedy(first, 8);
  alone.prefix_cache = false;
  EXPECT_EQ(run(alone).prompt.cached_tokens, 0);
}

// What was dropped for one question must not be missing for the next.
TEST_F(SchedulerTest, PruningNeitherUsesNorLeavesPrefixes) {
  const Policy policy = staged(ScorerKind::kAttention, 0.4);
  const std::vector<TokenId> document = some_tokens(120);
  std::vector<TokenId> one = document, other = document;
  for (const TokenId token : some_tokens(12, 3)) one.push_back(token);
  for (const TokenId token : some_tokens(12, 4)) other.push_back(token);
  const Outcome first = run(greedy(one, 8, policy));
  EXPECT_LT(first.prompt.kept_tokens, 60);
  const Outcome second = run(greedy(other, 8, policy));
  EXPECT_EQ(second.prompt.cached_tokens, 0);
  EXPECT_EQ(second.texts[0], expected_text(engine(), other, 8, policy));
  const Outcome dense = run(greedy(one, 8));  // after pruned ones: from the first token
  EXPECT_EQ(dense.prompt.cached_tokens, 0);
  EXPECT_EQ(dense.texts[0], expected_text(engine(), one, 8));
  const Outcome pruned = run(greedy(one, 8, policy));  // after a dense one: as if there were none
  EXPECT_EQ(pruned.prompt.cached_tokens, 0);
  EXPECT_EQ(pruned.texts[0], first.texts[0]);
}

TEST_F(SchedulerTest, KeptPositions) {
  JobSpec spec = greedy(some_tokens(100), 2, staged(ScorerKind::kRecency, 0.5));
  spec.positions = true;
  const Outcome result = run(spec);
  ASSERT_EQ(result.prompt.kept.size(), 2u);
  EXPECT_EQ(result.prompt.kept[0].size(), 50u);
  EXPECT_EQ(result.prompt.kept[1].size(), 25u);
  EXPECT_EQ(result.prompt.kept[1].front(), 0);
  EXPECT_EQ(result.prompt.kept[1].back(), 99);
  EXPECT_LT(result.prompt.kv_bytes, result.prompt.kv_bytes_dense);
}

TEST_F(SchedulerTest, SessionFilesAreBoundToTheirPrompt) {
  const Scratch scratch;
  const Policy policy = staged(ScorerKind::kAttention, 0.5);
  JobSpec spec = greedy(some_tokens(100), 8, policy);
  spec.session_file = scratch.file("a.session");
  const Outcome saved = run(spec);
  EXPECT_EQ(saved.prompt.session, "saved");
  const Outcome loaded = run(spec);
  EXPECT_EQ(loaded.prompt.session, "loaded");
  EXPECT_EQ(loaded.texts[0], saved.texts[0]);
  EXPECT_EQ(loaded.prompt.kept_tokens, saved.prompt.kept_tokens);
  JobSpec other = spec;
  other.prompt.back() ^= 1;
  const Outcome refused = run(other);
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.error->status(), 409);
  EXPECT_NE(std::string(refused.error->what()).find("another prompt"), std::string::npos)
      << refused.error->what();
  other = spec;
  other.policy = Policy{};
  EXPECT_EQ(run(other).error->status(), 409);
}

// A client learns what is wrong with its session, not where the server keeps it.
TEST_F(SchedulerTest, SessionFilesThatCannotBeUsed) {
  const Scratch scratch;
  JobSpec spec = greedy(some_tokens(40), 2);
  spec.session_file = scratch.write("a.session", "damaged");
  EXPECT_EQ(run(spec).error->code(), "session_damaged");
  spec.session_file = scratch.file("b.session");
  EXPECT_FALSE(run(spec).error);
  std::string bytes = Scratch::read(spec.session_file);
  bytes[bytes.size() / 2] ^= 1;
  scratch.write("b.session", bytes);
  EXPECT_EQ(run(spec).error->code(), "session_damaged");
  spec.session_file = scratch.file("missing/c.session");
  const Outcome unsaved = run(spec);
  ASSERT_TRUE(unsaved.error);
  EXPECT_EQ(unsaved.error->status(), 500);
  EXPECT_TRUE(std::string(unsaved.error->what()).starts_with("winnow.session: cannot create"))
      << unsaved.error->what();
}

TEST_F(SchedulerTest, CancelledJobsEnd) {
  JobSpec spec = greedy(some_tokens(40), 400);
  std::vector<std::shared_ptr<Job>> jobs;
  for (int i = 0; i < 12; ++i) jobs.push_back(scheduler_.submit(spec));
  for (const auto& job : jobs) job->cancel();
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  while (!scheduler_.idle() && Clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_EQ(metrics_.cancelled, 12);
}

TEST(SchedulerLimits, FullQueue) {
  Metrics metrics;
  Scheduler scheduler(engine(), {.max_sequences = 1, .max_queue = 2}, metrics);
  std::vector<std::shared_ptr<Job>> jobs;
  std::optional<ApiError> refused;
  for (int i = 0; i < 200 && !refused; ++i) {
    try {
      jobs.push_back(scheduler.submit(greedy(some_tokens(200), 100)));
    } catch (const ApiError& error) {
      refused = error;
    }
  }
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status(), 429);
  EXPECT_TRUE(refused->retry_after_s);
  EXPECT_EQ(metrics.rejected, 1);
  for (const auto& job : jobs)
    EXPECT_EQ(outcome(*job).end.completion_tokens, 100);  // none of the others is lost
}

TEST(SchedulerLimits, Time) {
  Metrics metrics;
  // Over when the scheduler has waited for a neighbour.
  Scheduler scheduler(engine(), {.request_timeout = std::chrono::milliseconds(1)}, metrics);
  const Outcome late = outcome(*scheduler.submit(greedy(some_tokens(40), 4)));
  ASSERT_TRUE(late.error);
  EXPECT_EQ(late.error->status(), 504);
  EXPECT_STREQ(late.error->what(), "no answer within the limit of 0.001 s");
  EXPECT_EQ(metrics.timed_out, 1);
}

TEST(SchedulerLimits, TheTimeIsWhatWasAsked) {
  const Job job(greedy(some_tokens(4), 1), std::chrono::milliseconds(1500));
  EXPECT_EQ(job.limit, std::chrono::milliseconds(1500));
  EXPECT_EQ(job.deadline - job.created, job.limit);
}

TEST(SchedulerLimits, DrainFinishesAndRefuses) {
  Metrics metrics;
  Scheduler scheduler(engine(), {}, metrics);
  const auto job = scheduler.submit(greedy(some_tokens(40), 20));
  scheduler.drain();
  try {
    scheduler.submit(greedy(some_tokens(40), 20));
    ADD_FAILURE();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), 503);
  }
  EXPECT_EQ(outcome(*job).end.completion_tokens, 20);
}

TEST(SchedulerLimits, StopEndsEverything) {
  Metrics metrics;
  Scheduler scheduler(engine(), {.max_sequences = 2}, metrics);
  std::vector<std::shared_ptr<Job>> jobs;
  for (int i = 0; i < 6; ++i) jobs.push_back(scheduler.submit(greedy(some_tokens(100), 400)));
  scheduler.stop();
  int stopped = 0;
  for (const auto& job : jobs) {
    const Outcome result = outcome(*job);
    if (result.error) stopped += result.error->status() == 503 ? 1 : 0;
  }
  EXPECT_GE(stopped, 4);
  EXPECT_TRUE(scheduler.idle());
}

TEST(PrefixCache, LeastRecentlyUsedLeave) {
  PrefillOptions options;
  options.reserve_tokens = 0;
  const auto session_of = [&](const std::vector<TokenId>& tokens) {
    auto session = std::make_unique<Session>(engine());
    EXPECT_TRUE(session->prefill(tokens, Policy{}, options));
    return session;
  };
  const auto a = some_tokens(64, 1), b = some_tokens(64, 2), c = some_tokens(64, 3);
  const std::int64_t bytes = session_of(a)->memory_bytes();
  PrefixCache cache(2 * bytes + bytes / 2);
  cache.put(session_of(a), a);
  cache.put(session_of(b), b);
  EXPECT_EQ(cache.take(a)->tokens(), 63);  // used: stays
  cache.put(session_of(c), c);
  EXPECT_EQ(cache.entries(), 2);
  EXPECT_EQ(cache.bytes(), 2 * bytes);
  EXPECT_EQ(cache.take(b), nullptr);
  EXPECT_NE(cache.take(a), nullptr);
  EXPECT_NE(cache.take(c), nullptr);
  PrefixCache none(0);
  none.put(session_of(a), a);
  EXPECT_EQ(none.entries(), 0);
}

}  // namespace
}  // namespace winnow
