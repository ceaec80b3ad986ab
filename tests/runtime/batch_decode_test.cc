// One step of several sessions is the steps of each.
#include "runtime/batch_decode.h"

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
