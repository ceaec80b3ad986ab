// A model over several CPU ranks gives what one rank gives: logits within rounding, the same tokens kept, the
// same blocks. Under `mpirun -n 2` the ranks are MPI's processes, otherwise threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "model/model_part.h"
#include "runtime/session_batch.h"
#include "sparsity/selector.h"
#include "support/format_testing.h"
#include "support/rank_testing.h"

namespace winnow {
namespace {

constexpr AttentionCosts kFreePlanning{1, 0.1, 0, 0};

struct Case {
  const char* model;
  Split split;
  int ranks;
  Precision precision;
};

std::string case_name(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
  return fmt::format("{}_{}_{}_{}", name, info.param.split == Split::kTensor ? "tensor" : "layers",
                     info.param.ranks, precision_name(info.param.precision));
}

// The first cases have the two ranks that CI's mpirun starts.
const Case kCases[] = {{"tiny-llama", Split::kTensor, 2, Precision::kF32},
                       {"tiny-llama", Split::kTensor, 2, Precision::kBF16},
                       {"tiny-llama", Split::kLayers, 2, Precision::kF32},
                       {"tiny-qwen2", Split::kTensor, 2, Precision::kF32},
                       {"tiny-gemma3", Split::kTensor, 2, Precision::kF32},
                       {"tiny-gemma3", Split::kLayers, 2, Precision::kF32},
                       {"tiny-llama.gguf", Split::kTensor, 2, Precision::kF32},
                       {"tiny-dynamic", Split::kLayers, 2, Precision::kF32},
                       {"tiny-gpt2", Split::kTensor, 3, Precision::kF32},  // heads 2, 1, 1
                       {"tiny-gpt2", Split::kLayers, 3, Precision::kBF16}};

class SplitModel : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& the = GetParam();
    if (mpi_ranks() && mpi_ranks()->size() != the.ranks) GTEST_SKIP() << "needs " << the.ranks << " ranks";
    one_ = Engine::open(options());
    ranks_ = std::make_unique<TestRanks>(the.ranks);
    EngineOptions shared = options();
    shared.ranks = **ranks_;
    shared.split = the.split;
    many_ = Engine::open(shared);
  }
  EngineOptions options() const {
    return {.model = WINNOW_TEST_DATA "/models/" + std::string(GetParam().model),
            .random_weights = "",
            .precision = GetParam().precision,
            .threads = 1,
            .progress = {},
            .attention_costs = [](const BlockRule&) { return kFreePlanning; }};
  }
  float tolerance() const { return GetParam().precision == Precision::kF32 ? 2e-5f : 0.05f; }
  // Whether rounding is too small to change a choice, or there is none: whole layers are computed as by one.
  bool exact() const { return GetParam().precision == Precision::kF32 || GetParam().split == Split::kLayers; }

  // Both read `tokens`: same logits, same tokens kept at every stage, same cache rows, same pairs.
  void compare(const std::vector<TokenId>& tokens, const Policy& policy) const {
    Session alone(*one_), shared(*many_);
    compare(alone, shared, tokens, policy);
  }
  void compare(Session& alone, Session& shared, const std::vector<TokenId>& tokens,
               const Policy& policy) const {
    std::vector<std::vector<std::int32_t>> kept_alone, kept_shared;
    const auto noting = [](std::vector<std::vector<std::int32_t>>& kept) {
      PrefillOptions options;
      options.on_stage = [&kept](const StageRecord&, std::span<const std::int32_t> places) {
        kept.emplace_back(places.begin(), places.end());
      };
      return options;
    };
    ASSERT_TRUE(alone.prefill(tokens, policy, noting(kept_alone)));
    ASSERT_TRUE(shared.prefill(tokens, policy, noting(kept_shared)));
    EXPECT_EQ(shared.kv_lens(), alone.kv_lens());
    if (exact()) {
      EXPECT_EQ(kept_shared, kept_alone);
      EXPECT_EQ(shared.block_stats().size(), alone.block_stats().size());
      for (std::size_t i = 0; i < alone.block_stats().size(); ++i) {
        EXPECT_NEAR(shared.block_stats()[i].computed_pairs, alone.block_stats()[i].computed_pairs, 1e-6) << i;
      }
      EXPECT_DOUBLE_EQ(shared.prefill_stats().attention_flops, alone.prefill_stats().attention_flops);
    }
    if (exact() || !policy.prunes()) expect_near(shared.logits(), alone.logits(), tolerance());
  }
  std::vector<TokenId> prompt(std::int64_t tokens) const {
    return some_tokens(std::min(tokens, one_->arch().context));
  }
  // With one stage, for the models of few layers.
  Policy pruning(ScorerKind scorer, double keep = 0.5) const {
    Policy policy = staged(scorer, keep);
    policy.tokens.stages.resize(one_->arch().layers > 4 ? 2 : 1);
    return policy;
  }

  std::unique_ptr<Engine> one_;
  std::unique_ptr<TestRanks> ranks_;
  std::unique_ptr<Engine> many_;
};
INSTANTIATE_TEST_SUITE_P(Ranks, SplitModel, testing::ValuesIn(kCases), case_name);

TEST_P(SplitModel, DensePrefillAndDecodeAreThoseOfOneRank) {
  const auto tokens = some_tokens(90);
  Session alone(*one_), shared(*many_);
  compare(alone, shared, tokens, Policy{});
  for (const TokenId token : {5, 17, 200, 17}) {
    alone.decode(token);
    shared.decode(token);
    expect_near(shared.logits(), alone.logits(), tolerance());
  }
  compare(alone, shared, some_tokens(20, 7), Policy{});  // a second turn
}

TEST_P(SplitModel, StagesKeepTheSameTokens) {
  const auto tokens = prompt(150);
  for (const ScorerKind scorer : {ScorerKind::kAttention, ScorerKind::kNorm, ScorerKind::kRandom}) {
    SCOPED_TRACE(scorer_name(scorer));
    compare(tokens, pruning(scorer));
  }
  Policy mean = pruning(ScorerKind::kAttention, 0.3);
  mean.tokens.heads = HeadReduction::kMean;
  mean.tokens.kv = KvMode::kFinal;
  compare(tokens, mean);
  Policy heads = pruning(ScorerKind::kAttention, 0.4);
  heads.tokens.stages[0].heads = {{.layer = 0, .head = 3}, {.layer = 1, .head = 0}};
  if (one_->arch().rope_theta != 0) heads.tokens.positions = PositionMode::kCompact;
  compare(tokens, heads);
}

TEST_P(SplitModel, LayersSkipTheSameBlocks) {
  const auto tokens = prompt(200);
  for (const SelectorKind selector : {SelectorKind::kExactMass, SelectorKind::kPooled}) {
    Policy policy = pruning(ScorerKind::kAttention, 0.8);
    policy.attention = attention_policy(selector);
    policy.attention.rule.q_block = policy.attention.rule.k_block = 16;
    policy.attention.rule.local_tokens = policy.attention.rule.sink_tokens = 16;
    policy.attention.dense_last_tokens = 0;
    for (const bool gate : {false, true}) {
      policy.attention.gate = gate;
      compare(tokens, policy);
    }
  }
}

TEST_P(SplitModel, AllLogitsArePutTogether) {
  const auto tokens = some_tokens(70);
  const auto all = [&](const Engine& e) {
    std::vector<float> logits;
    PrefillOptions options;
    options.all_logits_from = 3;
    options.all_logits = [&](std::int64_t, const MatrixView& rows) {
      logits.insert(logits.end(), rows.row<float>(0), rows.row<float>(rows.rows));
    };
    Session session(e);
    EXPECT_TRUE(session.prefill(tokens, Policy{}, options));
    return logits;
  };
  expect_near(all(*many_), all(*one_), tolerance());
}

TEST_P(SplitModel, CopiesAndBatchesGoOnIndependently) {
  const auto tokens = some_tokens(60), more = some_tokens(9, 2), other = some_tokens(20, 3);
  const auto last_logits = [&](const Engine& e) {
    Session first(e);
    EXPECT_TRUE(first.prefill(tokens, Policy{}, {}));
    const auto copy = first.copy(), prefix = first.copy_prefix(31);
    const auto fresh = std::make_unique<Session>(e);
    // Read together, while another conversation goes on.
    EXPECT_TRUE(prefill_batch(std::vector<Reading>{{prefix.get(), more}, {fresh.get(), other}}, [&] {
      copy->decode(5);
      return false;
    }));
    const std::vector<Session*> batch{&first, copy.get(), prefix.get(), fresh.get()};
    for (const TokenId token : {3, 4}) {
      decode_batch(batch, std::vector<TokenId>{token, token + 1, token + 2, token + 3});
    }
    std::vector<float> logits;
    for (const Session* session : batch) {
      logits.insert(logits.end(), session->logits().begin(), session->logits().end());
    }
    return logits;
  };
  expect_near(last_logits(*many_), last_logits(*one_), tolerance());
}

TEST_P(SplitModel, ACancelledPromptLeavesNoTrace) {
  const auto tokens = some_tokens(40);
  Session shared(*many_);
  int asked = 0;
  PrefillOptions options;
  options.cancelled = [&] { return ++asked == 3; };
  EXPECT_FALSE(shared.prefill(tokens, Policy{}, options));
  EXPECT_EQ(shared.tokens(), 0);
  Session alone(*one_);
  compare(alone, shared, tokens, Policy{});
}

TEST_P(SplitModel, OtherSessionsDecodeBetweenLayers) {
  const auto last_logits = [&](const Engine& e) {
    Session answering(e), reading(e);
    EXPECT_TRUE(answering.prefill(some_tokens(30, 2), Policy{}, {}));
    PrefillOptions options;
    options.cancelled = [&] {
      answering.decode(9);
      const Session passing(e);  // and come and go
      return false;
    };
    EXPECT_TRUE(reading.prefill(some_tokens(40), Policy{}, options));
    std::vector<float> logits(answering.logits().begin(), answering.logits().end());
    logits.insert(logits.end(), reading.logits().begin(), reading.logits().end());
    return logits;
  };
  expect_near(last_logits(*many_), last_logits(*one_), tolerance());
}

TEST_P(SplitModel, WhatNeedsAllOfTheAttentionIsRefused) {
  Session shared(*many_);
  PrefillOptions options;
  options.observe_attention = [](const AttentionView&) {};
  expect_error(ErrorCode::kUnsupported, "--devices",
               [&] { shared.prefill(some_tokens(5), Policy{}, options); });
  compare(some_tokens(5), Policy{});  // the ranks are as before
}

TEST(SplitModelParts, CoverTheModelOnce) {
  Architecture arch;
  arch.name = "m";
  arch.layers = 5;
  arch.heads = 9;
  arch.kv_heads = 3;
  arch.ffn_dim = 1536;
  arch.vocab = 49152;
  const auto tensor = split_model(arch, Split::kTensor, 2);
  EXPECT_EQ(tensor[0].kv_heads, (Range{0, 2}));
  EXPECT_EQ(tensor[1].kv_heads, (Range{2, 1}));
  EXPECT_EQ(tensor[1].heads, (Range{6, 3}));
  EXPECT_EQ(tensor[1].ffn, (Range{768, 768}));
  EXPECT_EQ(tensor[1].layers, (Range{0, 5}));
  EXPECT_TRUE(tensor[0].adds_bias && !tensor[1].adds_bias);
  const auto layers = split_model(arch, Split::kLayers, 2);
  EXPECT_EQ(layers[0].layers, (Range{0, 3}));
  EXPECT_EQ(layers[1].layers, (Range{3, 2}));
  EXPECT_EQ(layers[0].vocab.count, 0);
  EXPECT_EQ(layers[1].vocab, (Range{0, 49152}));
  EXPECT_EQ(rank_of_layer(layers, 3), 1);
  EXPECT_EQ(rank_of_layer(tensor, 3), 0);
  expect_error(ErrorCode::kUnsupported, "3 kv heads, too few for 4 ranks with one each; use --split layers",
               [&] { split_model(arch, Split::kTensor, 4); });
  expect_error(ErrorCode::kUnsupported, "5 layers, too few for 6 ranks",
               [&] { split_model(arch, Split::kLayers, 6); });
}

// What an evaluation's ranks know without MPI, which they do not join.
TEST(SplitModelHosts, AreWhatTheLauncherSays) {
  if (!mpi_ranks()) GTEST_SKIP() << "needs mpirun";
  EXPECT_EQ(mpi_ranks()->local_rank(), mpi_launch()->local_rank);
  EXPECT_EQ(mpi_ranks()->local_size(), mpi_launch()->local_size);
  EXPECT_EQ(mpi_ranks()->host(), 0);
}

TEST(SplitModelParts, AModelThatCannotBeSplitIsRefusedBeforeAnyRankLoadsIt) {
  if (mpi_ranks() && mpi_ranks()->size() != 2) GTEST_SKIP() << "needs 2 ranks";
  const TestRanks ranks(2);
  EngineOptions options;
  options.model = WINNOW_TEST_DATA "/models/tiny-mistral";
  options.ranks = *ranks;
  expect_error(ErrorCode::kUnsupported, "use --split layers", [&] { Engine::open(options); });
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  winnow::mpi_ranks() = winnow::join_mpi_ranks();
  const auto ranks = winnow::mpi_ranks();
  if (ranks && ranks->rank() > 0) {
    winnow::follow(ranks);
    return 0;
  }
  const int failed = RUN_ALL_TESTS();
  if (ranks) winnow::dismiss_followers(*ranks);
  winnow::mpi_ranks().reset();
  return failed;
}
