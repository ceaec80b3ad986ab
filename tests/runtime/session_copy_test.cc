// Copies of sessions, and session files.
#include <gtest/gtest.h>

#include "core/error.h"
#include "runtime/session_file.h"
#include "support/scratch.h"
#include "support/session_testing.h"

namespace winnow {
namespace {

std::vector<float> decoded(Session& session, std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) session.decode(token);
  return {session.logits().begin(), session.logits().end()};
}

TEST(SessionCopy, GoesOnAlone) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    const Engine& e = engine("tiny-llama", "cpu", precision);
    for (const Policy& policy : {Policy{}, staged(ScorerKind::kAttention, 0.5)}) {
      Session session(e);
      ASSERT_TRUE(session.prefill(some_tokens(70), policy, {}));
      const auto other = session.copy();
      EXPECT_EQ(std::vector<float>(other->logits().begin(), other->logits().end()),
                std::vector<float>(session.logits().begin(), session.logits().end()));
      EXPECT_EQ(other->kv_lens(), session.kv_lens());
      decoded(*other, some_tokens(5, 9));  // leaves the first as it was
      const auto third = session.copy();
      EXPECT_EQ(decoded(session, some_tokens(40, 3)), decoded(*third, some_tokens(40, 3)));
      EXPECT_EQ(session.complete(), policy.dense());
    }
  }
}

TEST(SessionCopy, PrefixIsWhatWasReadFirst) {
  const auto tokens = some_tokens(90);
  Session session(engine());
  ASSERT_TRUE(session.prefill(tokens, Policy{}, {}));
  const auto prefix = session.copy_prefix(50);
  EXPECT_EQ(prefix->tokens(), 50);
  const auto rest = some_tokens(30, 5);
  std::vector<TokenId> whole(tokens.begin(), tokens.begin() + 50);
  whole.insert(whole.end(), rest.begin(), rest.end());
  expect_near(logits_after(*prefix, rest, Policy{}), fresh_logits(engine(), whole, Policy{}), 1e-5f);
}

class SessionFileTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(session_.prefill(prompt_, policy_, {}));
    SessionFile::save(path_, engine(), session_, policy_, prompt_);
  }
  // The message of the Error that loading `content` gives.
  std::string fault(const std::string& content) {
    try {
      SessionFile::load(scratch_.write("bad.session", content), engine(), policy_, prompt_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  Scratch scratch_;
  std::string path_ = scratch_.file("a.session");
  Policy policy_ = staged(ScorerKind::kAttention, 0.5);
  std::vector<TokenId> prompt_ = some_tokens(70);
  Session session_{engine()};
};

TEST_F(SessionFileTest, ComesBackAsItWas) {
  const auto loaded = SessionFile::load(path_, engine(), policy_, prompt_);
  EXPECT_EQ(loaded->kv_lens(), session_.kv_lens());
  EXPECT_EQ(loaded->tokens(), 70);
  EXPECT_EQ(std::vector<float>(loaded->logits().begin(), loaded->logits().end()),
            std::vector<float>(session_.logits().begin(), session_.logits().end()));
  EXPECT_EQ(decoded(*loaded, some_tokens(20, 3)), decoded(session_, some_tokens(20, 3)));
}

TEST_F(SessionFileTest, BelongsToModelPolicyAndPrompt) {
  const auto refused = [&](const Engine& e, const Policy& policy, std::span<const TokenId> prompt) {
    try {
      SessionFile::load(path_, e, policy, prompt);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadArgument);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(refused(engine("tiny-qwen2"), policy_, prompt_).find("another model"), std::string::npos);
  EXPECT_NE(refused(engine("tiny-llama", "reference"), policy_, prompt_).find("another backend"),
            std::string::npos);
  EXPECT_NE(
      refused(engine("tiny-llama", "cpu", Precision::kBF16), policy_, prompt_).find("another precision"),
      std::string::npos);
  EXPECT_NE(refused(engine(), staged(ScorerKind::kAttention, 0.6), prompt_).find("another policy"),
            std::string::npos);
  EXPECT_NE(refused(engine(), policy_, some_tokens(70, 2)).find("another prompt"), std::string::npos);
}

TEST_F(SessionFileTest, DamageIsSeen) {
  const std::string content = Scratch::read(path_);
  EXPECT_NE(fault("").find("no session file"), std::string::npos);
  EXPECT_NE(fault("WNWKV").find("no session file"), std::string::npos);
  for (const std::size_t size : {std::size_t{20}, content.size() / 2, content.size() - 1})
    EXPECT_NE(fault(content.substr(0, size)), "") << size;
  for (std::size_t at = 0; at < content.size(); at += content.size() / 37) {
    std::string damaged = content;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    EXPECT_NE(fault(damaged), "") << at;
  }
  EXPECT_NE(fault(content + "x"), "");
  EXPECT_THROW(SessionFile::load(scratch_.file("missing"), engine(), policy_, prompt_), Error);
}

TEST(PolicyHash, SaysWhatDecides) {
  const Policy policy = staged(ScorerKind::kAttention, 0.5);
  Policy same = policy, other = policy;
  same.name = "another name";
  same.measured = {{"kl", 1}};
  other.tokens.window = 9;
  EXPECT_EQ(policy_hash(policy), policy_hash(same));
  EXPECT_NE(policy_hash(policy), policy_hash(other));
}

}  // namespace
}  // namespace winnow
