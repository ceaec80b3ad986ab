// What several sessions do in one pass is what each does alone.
#include "runtime/session_batch.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/error.h"
#include "support/session_testing.h"

namespace winnow {
namespace {

struct Conversation {
  std::vector<TokenId> prompt;
  Policy policy;
};

// Of different lengths, one of them pruned.
std::vector<Conversation> conversations(std::size_t count) {
  std::vector<Conversation> all;
  for (std::size_t i = 0; i < count; ++i) {
    all.push_back({some_tokens(static_cast<std::int64_t>(1 + 14 * i), static_cast<int>(i) + 1), Policy{}});
  }
  all.back().policy = staged(ScorerKind::kAttention, 0.5);
  all.back().policy.tokens.stages.resize(1);
  return all;
}

TokenId token_at(std::size_t conversation, std::size_t step) {
  return static_cast<TokenId>((conversation * 71 + step * 13 + 5) % 300);
}

class BatchDecode : public testing::TestWithParam<std::tuple<const char*, Precision>> {
 protected:
  const Engine& model() const { return engine(std::get<0>(GetParam()), "cpu", std::get<1>(GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(Models, BatchDecode,
                         testing::Combine(testing::Values("tiny-llama", "tiny-gpt2"),
                                          testing::Values(Precision::kF32, Precision::kBF16)));

TEST_P(BatchDecode, EqualsTheSessionsOneByOne) {
  constexpr std::size_t kSteps = 4;
  for (const std::size_t count : {1, 2, 5, 17}) {
    SCOPED_TRACE(count);
    std::vector<std::unique_ptr<Session>> together, alone;
    std::vector<Session*> batch;
    for (const auto& [prompt, policy] : conversations(count)) {
      for (auto* sessions : {&together, &alone}) {
        sessions->push_back(std::make_unique<Session>(model()));
        ASSERT_TRUE(sessions->back()->prefill(prompt, policy, {}));
      }
      batch.push_back(together.back().get());
    }
    for (std::size_t step = 0; step < kSteps; ++step) {
      std::vector<TokenId> tokens;
      for (std::size_t i = 0; i < count; ++i) tokens.push_back(token_at(i, step));
      decode_batch(batch, tokens);
      for (std::size_t i = 0; i < count; ++i) alone[i]->decode(tokens[i]);
    }
    for (std::size_t i = 0; i < count; ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(together[i]->tokens(), alone[i]->tokens());
      EXPECT_EQ(together[i]->kv_lens(), alone[i]->kv_lens());
      expect_near(together[i]->logits(), alone[i]->logits(), 1e-5f);
    }
  }
}

// Prompts of many lengths, the second turn of a conversation, one token after a copied prefix.
class BatchPrefill : public BatchDecode {
 protected:
  struct Case {
    std::unique_ptr<Session> together, alone;
    std::vector<TokenId> tokens;
  };

  std::vector<Case> cases() const {
    std::vector<Case> all;
    for (const std::int64_t count : {40, 1, 67, 16, 130}) {
      all.push_back({std::make_unique<Session>(model()), std::make_unique<Session>(model()),
                     some_tokens(count, static_cast<int>(count))});
    }
    for (const auto& session : {&all[3].together, &all[3].alone}) {
      EXPECT_TRUE((*session)->prefill(some_tokens(21, 8), staged(ScorerKind::kAttention, 0.5), {}));
    }
    Session whole(model());
    EXPECT_TRUE(whole.prefill(some_tokens(50, 9), Policy{}, {}));
    all.push_back({whole.copy_prefix(33), whole.copy_prefix(33), some_tokens(1, 4)});
    return all;
  }

  static std::vector<Reading> readings_of(const std::vector<Case>& cases) {
    std::vector<Reading> readings;
    for (const Case& one : cases) readings.push_back({.session = one.together.get(), .tokens = one.tokens});
    return readings;
  }

  // Products of another number of rows may be rounded otherwise.
  float tolerance() const { return std::get<1>(GetParam()) == Precision::kF32 ? 1e-5f : 1e-2f; }
};
INSTANTIATE_TEST_SUITE_P(Models, BatchPrefill,
                         testing::Combine(testing::Values("tiny-llama", "tiny-gpt2"),
                                          testing::Values(Precision::kF32, Precision::kBF16)));

TEST_P(BatchPrefill, EqualsThePromptsOneByOne) {
  const std::vector<Case> all = cases();
  ASSERT_TRUE(prefill_batch(readings_of(all)));
  std::vector<Session*> batch;
  std::vector<TokenId> next;
  for (std::size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    const auto& [together, alone, tokens] = all[i];
    ASSERT_TRUE(alone->prefill(tokens, Policy{}, {}));
    EXPECT_EQ(together->tokens(), alone->tokens());
    EXPECT_EQ(together->kv_lens(), alone->kv_lens());
    expect_near(together->logits(), alone->logits(), tolerance());
    const PassStats& stats = together->prefill_stats();
    const PassStats& expected = alone->prefill_stats();
    EXPECT_EQ(stats.prompt_tokens, expected.prompt_tokens);
    EXPECT_EQ(stats.flops(), expected.flops());
    EXPECT_EQ(stats.avgtok(), 1.0);
    EXPECT_EQ(stats.attn_work(), expected.attn_work());
    batch.push_back(together.get());
    next.push_back(token_at(i, 0));
  }
  decode_batch(batch, next);
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].alone->decode(next[i]);
    expect_near(all[i].together->logits(), all[i].alone->logits(), tolerance());
  }
}

TEST_P(BatchPrefill, CancelledLeavesTheSessionsAsTheyWere) {
  const std::vector<Case> all = cases();
  int asked = 0;
  EXPECT_FALSE(prefill_batch(readings_of(all), [&] { return ++asked == 3; }));
  EXPECT_EQ(asked, 3);
  for (const auto& [together, alone, tokens] : all) {
    EXPECT_EQ(together->tokens(), alone->tokens());
    EXPECT_EQ(together->kv_lens(), alone->kv_lens());
    ASSERT_TRUE(together->prefill(tokens, Policy{}, {}));
    ASSERT_TRUE(alone->prefill(tokens, Policy{}, {}));
    expect_near(together->logits(), alone->logits(), tolerance());
  }
}

// Answers under way may get tokens between its layers.
TEST_P(BatchPrefill, OthersDecodeMeanwhile) {
  const std::vector<Case> all = cases();
  Session other(model()), expected(model());
  for (Session* session : {&other, &expected}) ASSERT_TRUE(session->prefill(some_tokens(30), Policy{}, {}));
  ASSERT_TRUE(prefill_batch(readings_of(all), [&] {
    other.decode(7);
    return false;
  }));
  for (std::int64_t i = 0; i < model().arch().layers; ++i) expected.decode(7);
  expect_near(other.logits(), expected.logits(), tolerance());
  for (const auto& [together, alone, tokens] : all) {
    ASSERT_TRUE(alone->prefill(tokens, Policy{}, {}));
    expect_near(together->logits(), alone->logits(), tolerance());
  }
}

TEST_P(BatchPrefill, APromptTooLongChangesNoSession) {
  Session first(model()), second(model());
  const auto some = some_tokens(5), many = some_tokens(model().arch().context + 1);
  EXPECT_THROW(prefill_batch(std::vector<Reading>{{&first, some}, {&second, many}}), Error);
  EXPECT_EQ(first.tokens(), 0);
  EXPECT_EQ(first.kv_lens(), Session(model()).kv_lens());
}

TEST_P(BatchDecode, ABadTokenChangesNoSession) {
  Session first(model()), second(model());
  ASSERT_TRUE(first.prefill(some_tokens(5), Policy{}, {}));
  ASSERT_TRUE(second.prefill(some_tokens(7), Policy{}, {}));
  const std::vector<Session*> sessions{&first, &second};
  const std::vector<TokenId> tokens{3, static_cast<TokenId>(model().arch().vocab)};
  EXPECT_THROW(decode_batch(sessions, tokens), Error);
  EXPECT_EQ(first.tokens(), 5);
  EXPECT_EQ(second.tokens(), 7);
}

}  // namespace
}  // namespace winnow
