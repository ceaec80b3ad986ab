// Sessions whose caches are kept in 8 bits.
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <functional>

#include "core/error.h"
#include "runtime/session_batch.h"
#include "runtime/session_file.h"
#include "support/scratch.h"
#include "support/session_testing.h"

namespace winnow {
namespace {

const Engine& q8_engine(const std::string& model = "tiny-llama", const std::string& device = "cpu",
                        Precision precision = Precision::kF32) {
  return engine(model, device, precision, KvType::kQ8);
}

// Logits after each of the tokens.
std::vector<float> decoded(Session& session, std::span<const TokenId> tokens) {
  std::vector<float> all;
  for (const TokenId token : tokens) {
    session.decode(token);
    all.insert(all.end(), session.logits().begin(), session.logits().end());
  }
  return all;
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class Q8Session : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, Q8Session,
                         testing::Values("tiny-llama", "tiny-gpt2", "tiny-mistral", "tiny-gemma3",
                                         "tiny-qwen3", "tiny-dynamic"));

// Attention, scores and blocks of a first prompt are of keys and values as computed.
TEST_P(Q8Session, AFirstPromptGivesTheSameBits) {
  for (const Policy& policy :
       {Policy{}, staged(ScorerKind::kAttention, 0.5), staged(ScorerKind::kNorm, 0.5)}) {
    if (engine(GetParam()).arch().layers < 6 && !policy.dense()) continue;
    Session same(engine(GetParam())), q8(q8_engine(GetParam()));
    EXPECT_EQ(logits_after(q8, some_tokens(90), policy), logits_after(same, some_tokens(90), policy));
    EXPECT_EQ(q8.kv_lens(), same.kv_lens());
    EXPECT_LT(static_cast<double>(q8.kv_bytes()), 0.6 * static_cast<double>(same.kv_bytes()));
  }
}

// Codes are a step of max / 127 apart: values are off by up to 0.4% of a row's largest. These random models
// amplify that about as they amplify bf16's 0.4% (their golden test allows it 0.12).
TEST_P(Q8Session, DecodingAndLaterTurnsAreNear) {
  Session same(engine(GetParam())), q8(q8_engine(GetParam()));
  logits_after(same, some_tokens(50), Policy{});
  logits_after(q8, some_tokens(50), Policy{});
  expect_near(decoded(q8, some_tokens(12, 3)), decoded(same, some_tokens(12, 3)), 0.12f);
  expect_near(logits_after(q8, some_tokens(30, 5), Policy{}),
              logits_after(same, some_tokens(30, 5), Policy{}), 0.12f);
  expect_near(decoded(q8, some_tokens(12, 7)), decoded(same, some_tokens(12, 7)), 0.12f);
  EXPECT_EQ(q8.kv_lens(), same.kv_lens());
}

TEST_P(Q8Session, TheBackendsAgree) {
  Session cpu(q8_engine(GetParam())), reference(q8_engine(GetParam(), "reference"));
  logits_after(cpu, some_tokens(40), Policy{});
  logits_after(reference, some_tokens(40), Policy{});
  // A value between two codes may go to either one: a step of 1/127 of one row.
  expect_near(decoded(cpu, some_tokens(6, 3)), decoded(reference, some_tokens(6, 3)), 0.02f);
  expect_near(logits_after(cpu, some_tokens(9, 5), Policy{}),
              logits_after(reference, some_tokens(9, 5), Policy{}), 0.02f);
}

TEST_P(Q8Session, ABatchIsItsSessionsOneByOne) {
  std::vector<std::unique_ptr<Session>> together, alone;
  std::vector<Session*> batch;
  for (const std::int64_t length : {1, 40, 70}) {
    for (auto* sessions : {&together, &alone}) {
      sessions->push_back(std::make_unique<Session>(q8_engine(GetParam())));
      logits_after(*sessions->back(), some_tokens(length), Policy{});
    }
    batch.push_back(together.back().get());
  }
  for (const TokenId token : some_tokens(40, 3)) {  // beyond the room there is
    decode_batch(batch, std::vector<TokenId>(batch.size(), token));
    for (const auto& session : alone) session->decode(token);
  }
  for (std::size_t i = 0; i < batch.size(); ++i) {
    expect_near(batch[i]->logits(), alone[i]->logits(), 1e-5f);
    EXPECT_EQ(batch[i]->kv_lens(), alone[i]->kv_lens());
  }
}

// Prompts that are read in one pass, on top of what their sessions hold.
TEST_P(Q8Session, PromptsReadTogetherAreThoseReadAlone) {
  std::vector<std::unique_ptr<Session>> together, alone;
  const std::vector<TokenId> prompt = some_tokens(30, 5);
  std::vector<Reading> readings;
  for (const std::int64_t length : {0, 1, 40}) {
    for (auto* sessions : {&together, &alone}) {
      sessions->push_back(std::make_unique<Session>(q8_engine(GetParam())));
      if (length > 0) logits_after(*sessions->back(), some_tokens(length), Policy{});
    }
    readings.push_back({.session = together.back().get(), .tokens = prompt});
  }
  ASSERT_TRUE(prefill_batch(readings));
  for (std::size_t i = 0; i < together.size(); ++i) {
    logits_after(*alone[i], prompt, Policy{});
    expect_near(together[i]->logits(), alone[i]->logits(), 1e-4f);
    // A key between two codes may go to either one.
    expect_near(decoded(*together[i], some_tokens(3, 3)), decoded(*alone[i], some_tokens(3, 3)), 0.02f);
  }
}

TEST(Q8Sessions, PruningToTheLastSurvivorsAndEvictionCutTheCaches) {
  Policy final_only = staged(ScorerKind::kAttention, 0.5);
  final_only.tokens.kv = KvMode::kFinal;
  Session session(q8_engine()), same(engine());
  logits_after(session, some_tokens(90), final_only);
  logits_after(same, some_tokens(90), final_only);
  EXPECT_EQ(session.kv_lens(), same.kv_lens());
  expect_near(decoded(session, some_tokens(9, 3)), decoded(same, some_tokens(9, 3)), 0.12f);
  const std::vector<std::int64_t> kept = {0, 1, 5, 9, 20};
  for (std::int64_t layer = 0; layer < 6; ++layer) {
    session.keep_rows(layer, kept);
    same.keep_rows(layer, kept);
  }
  EXPECT_EQ(session.kv_lens(), std::vector<std::int64_t>(6, 5));
  expect_near(decoded(session, some_tokens(9, 4)), decoded(same, some_tokens(9, 4)), 0.12f);
}

TEST(Q8Sessions, ACancelledTurnLeavesTheConversationAsItWas) {
  Session session(q8_engine());
  logits_after(session, some_tokens(50), Policy{});
  const auto untouched = session.copy();
  int layers = 0;
  PrefillOptions options;
  options.cancelled = [&] { return ++layers == 4; };
  EXPECT_FALSE(session.prefill(some_tokens(30, 2), Policy{}, options));
  EXPECT_EQ(session.kv_lens(), untouched->kv_lens());
  EXPECT_EQ(decoded(session, some_tokens(9, 3)), decoded(*untouched, some_tokens(9, 3)));
}

TEST(Q8Sessions, CopiesGoOnAlone) {
  for (const Policy& policy : {Policy{}, staged(ScorerKind::kAttention, 0.5)}) {
    Session session(q8_engine());
    logits_after(session, some_tokens(70), policy);
    const auto other = session.copy();
    decoded(*other, some_tokens(5, 9));  // leaves the first as it was
    const auto third = session.copy();
    EXPECT_EQ(decoded(session, some_tokens(40, 3)), decoded(*third, some_tokens(40, 3)));
  }
  Session session(q8_engine()), first(q8_engine());
  logits_after(session, some_tokens(90), Policy{});
  const std::vector<TokenId> tokens = some_tokens(90);
  logits_after(first, std::span(tokens).first(50), Policy{});
  const auto prefix = session.copy_prefix(50);
  EXPECT_EQ(decoded(*prefix, some_tokens(9, 3)), decoded(first, some_tokens(9, 3)));
}

TEST(Q8Sessions, MemoryIsEstimatedBeforeItIsUsed) {
  const Engine& e = q8_engine();
  const MemoryEstimate q8 = e.estimate(90, 0, Policy{}), same = engine().estimate(90, 0, Policy{});
  Session session(e);
  logits_after(session, some_tokens(90), Policy{});
  EXPECT_EQ(session.kv_bytes(), q8.kv);
  EXPECT_EQ(q8.activations, same.activations + same.kv / e.arch().layers);  // one layer's as computed
}

// A turn works on all rows of a layer as computed; only the new ones are added to the caches.
TEST(Q8Sessions, EarlierRowsCountInTheEstimate) {
  const Engine& e = q8_engine();
  const auto computed = [&](std::int64_t rows) {
    return e.backend().kv_bytes(e.arch().kv_heads, e.arch().head_dim, rows);
  };
  const MemoryEstimate first = e.estimate_here(64, 0, Policy{}),
                       later = e.estimate_here(64, 0, Policy{}, /*earlier_rows=*/256);
  EXPECT_EQ(later.kv, first.kv);
  EXPECT_EQ(later.activations - first.activations, computed(256 + 64) - computed(64));
  EXPECT_EQ(engine().estimate_here(64, 0, Policy{}, 256).total(),
            engine().estimate_here(64, 0, Policy{}).total());
}

class Q8SessionFile : public testing::Test {
 protected:
  std::string save(const Engine& e) {
    Session session(e);
    EXPECT_TRUE(session.prefill(prompt_, policy_, {}));
    const std::string path = scratch_.file(std::string(kv_type_name(e.kv_type())) + ".session");
    SessionFile::save(path, e, session, policy_, prompt_);
    return path;
  }

  Scratch scratch_;
  Policy policy_ = staged(ScorerKind::kAttention, 0.5);
  std::vector<TokenId> prompt_ = some_tokens(70);
};

TEST_F(Q8SessionFile, ComesBackAsItWas) {
  const auto loaded = SessionFile::load(save(q8_engine()), q8_engine(), policy_, prompt_);
  Session session(q8_engine());
  logits_after(session, prompt_, policy_);
  EXPECT_EQ(loaded->kv_lens(), session.kv_lens());
  EXPECT_EQ(decoded(*loaded, some_tokens(20, 3)), decoded(session, some_tokens(20, 3)));
}

TEST_F(Q8SessionFile, BelongsToItsKindOfCaches) {
  const std::string q8 = save(q8_engine()), same = save(engine());
  EXPECT_NE(message_of([&] { SessionFile::load(q8, engine(), policy_, prompt_); }).find("another kv (\"q8\""),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              SessionFile::load(same, q8_engine(), policy_, prompt_);
            }).find("another kv (\"same\""),
            std::string::npos);
}

// Files from before there was a choice say nothing about it.
TEST_F(Q8SessionFile, AFileThatDoesNotSayIsAsComputed) {
  std::string content = Scratch::read(save(engine()));
  const std::string said = "\"kv\":\"same\",";
  const std::size_t at = content.find(said);
  ASSERT_NE(at, std::string::npos);
  content.erase(at, said.size());
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, content.data() + 8, sizeof header_bytes);
  header_bytes -= said.size();
  std::memcpy(content.data() + 8, &header_bytes, sizeof header_bytes);
  const std::size_t body = content.size() - sizeof(std::uint64_t);
  const std::uint64_t checksum = XXH3_64bits(content.data(), body);
  std::memcpy(content.data() + body, &checksum, sizeof checksum);
  const std::string old = scratch_.write("old.session", content);
  EXPECT_EQ(SessionFile::load(old, engine(), policy_, prompt_)->tokens(), 70);
  EXPECT_NE(message_of([&] { SessionFile::load(old, q8_engine(), policy_, prompt_); }).find("another kv"),
            std::string::npos);
}

TEST(Q8Sessions, WhatDoesNotGoTogetherIsRefused) {
  Policy selected;
  selected.attention.selector = SelectorKind::kPooled;
  selected.attention.rule.estimator = BlockEstimator::kPooled;
  selected.attention.decode = DecodeMode::kSelected;
  Session session(q8_engine());
  EXPECT_NE(message_of([&] { session.prefill(some_tokens(9), selected, {}); }).find("--kv q8"),
            std::string::npos);
  EXPECT_EQ(session.tokens(), 0);
  EXPECT_NE(message_of([&] {
              SessionFile::load("any.session", q8_engine(), selected, some_tokens(9));
            }).find("--kv q8"),
            std::string::npos);
  EngineOptions options{.model = WINNOW_TEST_DATA "/models/tiny-llama",
                        .random_weights = "",
                        .device = "cuda",
                        .kv = KvType::kQ8,
                        .progress = {}};
  EXPECT_NE(message_of([&] { Engine::open(options); }).find("--kv q8: caches on --device cuda"),
            std::string::npos);
}

}  // namespace
}  // namespace winnow
