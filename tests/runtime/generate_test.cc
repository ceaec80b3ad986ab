#include "runtime/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

namespace winnow {
namespace {

class GenerateTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string model = WINNOW_TEST_DATA "/models/tiny-llama";
    engine_ = Engine::open({.model = model + ".gguf",
                            .random_weights = "",
                            .device = "cpu",
                            .precision = Precision::kF32,
                            .threads = 1,
                            .progress = {}});
    const auto golden = nlohmann::json::parse(std::ifstream(model + "/golden.json"));
    prompt_ = golden["prompt"].get<std::vector<TokenId>>();
    expected_ = golden["decode_tokens"].get<std::vector<TokenId>>();
  }
  static void TearDownTestSuite() { engine_.reset(); }

  void SetUp() override {
    PrefillOptions options;
    ASSERT_TRUE(session_.prefill(prompt_, Policy{}, options));
  }
  std::vector<TokenId> expected(std::int64_t count) { return {expected_.begin(), expected_.begin() + count}; }

  static inline std::unique_ptr<Engine> engine_;
  static inline std::vector<TokenId> prompt_, expected_;
  Session session_{*engine_};
  Sampler sampler_{SamplerOptions{}};
};

TEST_F(GenerateTest, GoldenTokens) {
  GenerateOptions options;
  options.max_new_tokens = static_cast<std::int64_t>(expected_.size());
  const Generation answer = generate(session_, sampler_, options);
  EXPECT_EQ(answer.tokens, expected_);
  EXPECT_EQ(answer.reason, FinishReason::kLength);
  EXPECT_EQ(answer.decode_steps, static_cast<std::int64_t>(expected_.size()) - 1);
  EXPECT_TRUE(answer.last_token_pending);
  EXPECT_EQ(session_.tokens(), static_cast<std::int64_t>(prompt_.size() + expected_.size()) - 1);
  EXPECT_GT(answer.decode_ms, 0);
}

TEST_F(GenerateTest, OneTokenDecodesNothing) {
  GenerateOptions options;
  options.max_new_tokens = 1;
  const Generation answer = generate(session_, sampler_, options);
  EXPECT_EQ(answer.tokens, expected(1));
  EXPECT_EQ(answer.decode_steps, 0);
  EXPECT_EQ(answer.decode_ms, 0);
  EXPECT_EQ(session_.tokens(), static_cast<std::int64_t>(prompt_.size()));
}

TEST_F(GenerateTest, StopTokenIsNoPartOfTheAnswer) {
  const std::vector<TokenId> stops{expected_[5]};
  const auto first = std::find(expected_.begin(), expected_.end(), expected_[5]) - expected_.begin();
  GenerateOptions options;
  options.stop_tokens = stops;
  const Generation answer = generate(session_, sampler_, options);
  EXPECT_EQ(answer.tokens, expected(first));
  EXPECT_EQ(answer.reason, FinishReason::kStop);
  EXPECT_FALSE(answer.last_token_pending);
  EXPECT_EQ(answer.decode_steps, first);
}

TEST_F(GenerateTest, CallbackEndsTheAnswer) {
  std::vector<TokenId> told;
  GenerateOptions options;
  options.on_token = [&](TokenId token) {
    told.push_back(token);
    return told.size() < 4;
  };
  const Generation answer = generate(session_, sampler_, options);
  EXPECT_EQ(told, expected(4));
  EXPECT_EQ(answer.tokens, told);
  EXPECT_EQ(answer.reason, FinishReason::kStop);
  EXPECT_TRUE(answer.last_token_pending);
}

TEST_F(GenerateTest, Cancelled) {
  int asked = 0;
  GenerateOptions options;
  options.cancelled = [&] { return ++asked > 3; };
  const Generation answer = generate(session_, sampler_, options);
  EXPECT_EQ(answer.tokens, expected(3));
  EXPECT_EQ(answer.reason, FinishReason::kCancelled);
}

TEST_F(GenerateTest, FullContextEndsTheAnswer) {
  GenerateOptions options;
  options.max_new_tokens = 100000;
  const Generation answer = generate(session_, sampler_, options);
  EXPECT_EQ(answer.reason, FinishReason::kLength);
  EXPECT_EQ(session_.room(), 0);
  EXPECT_EQ(static_cast<std::int64_t>(answer.tokens.size() + prompt_.size()), engine_->arch().context + 1);
}

// What is left unread goes before the next turn; the conversation is then the one that was read at once.
TEST_F(GenerateTest, PendingTokenGoesBeforeTheNextTurn) {
  GenerateOptions options;
  options.max_new_tokens = 3;
  const Generation answer = generate(session_, sampler_, options);
  const std::vector<TokenId> next{answer.tokens.back(), 10, 11, 12};
  ASSERT_TRUE(session_.prefill(next, Policy{}, {}));
  std::vector<TokenId> whole = prompt_;
  whole.insert(whole.end(), answer.tokens.begin(), answer.tokens.end());
  whole.insert(whole.end(), {10, 11, 12});
  Session at_once(*engine_);
  ASSERT_TRUE(at_once.prefill(whole, Policy{}, {}));
  EXPECT_EQ(at_once.tokens(), session_.tokens());
  ASSERT_EQ(session_.logits().size(), at_once.logits().size());
  for (std::size_t i = 0; i < at_once.logits().size(); ++i)
    EXPECT_NEAR(session_.logits()[i], at_once.logits()[i], 1e-4);
}

}  // namespace
}  // namespace winnow
