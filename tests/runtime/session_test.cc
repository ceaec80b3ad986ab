// The contracts of prefill and decode under token pruning (docs/design.md), on the tiny golden models.
#include "runtime/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "support/format_testing.h"
#include "support/session_testing.h"

namespace winnow {
namespace {

class EveryModel : public testing::TestWithParam<std::tuple<const char*, Precision>> {
 protected:
  const Engine& model() const { return engine(std::get<0>(GetParam()), "cpu", std::get<1>(GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(Models, EveryModel,
                         testing::Combine(testing::Values("tiny-llama", "tiny-qwen2", "tiny-gpt2"),
                                          testing::Values(Precision::kF32, Precision::kBF16)));

TEST_P(EveryModel, KeepOneIsBitForBitDense) {
  const auto tokens = some_tokens(150);
  for (const ScorerKind scorer :
       {ScorerKind::kAttention, ScorerKind::kNorm, ScorerKind::kRecency, ScorerKind::kRandom}) {
    Policy policy = staged(scorer, 1.0);
    policy.tokens.stages.resize(model().arch().layers > 4 ? 2 : 1);
    EXPECT_EQ(fresh_logits(model(), tokens, policy), fresh_logits(model(), tokens, Policy{}))
        << scorer_name(scorer);
  }
}

TEST_P(EveryModel, SameInputSameBits) {
  const auto tokens = some_tokens(150);
  Policy policy = staged(ScorerKind::kAttention, 0.5);
  policy.tokens.stages.resize(1);
  EXPECT_EQ(fresh_logits(model(), tokens, policy), fresh_logits(model(), tokens, policy));
}

TEST_P(EveryModel, ASecondTurnContinuesTheFirst) {
  const auto tokens = some_tokens(100);
  const auto whole = fresh_logits(model(), tokens, Policy{});
  Session session(model());
  ASSERT_TRUE(session.prefill(std::span(tokens).first(61), Policy{}, {}));
  const auto split = logits_after(session, std::span(tokens).subspan(61), Policy{});
  // Not bit for bit: a product over other rows may round elsewhere.
  expect_near(split, whole, std::get<1>(GetParam()) == Precision::kF32 ? 1e-5f : 0.05f);
  EXPECT_EQ(session.tokens(), 100);
}

TEST_P(EveryModel, DecodeEqualsPrefillOfTheSameTokens) {
  const auto tokens = some_tokens(90);
  const auto whole = fresh_logits(model(), tokens, Policy{});
  Session session(model());
  PrefillOptions options;
  options.reserve_tokens = 0;  // the caches must grow
  ASSERT_TRUE(session.prefill(std::span(tokens).first(50), Policy{}, options));
  for (std::size_t i = 50; i < tokens.size(); ++i) session.decode(tokens[i]);
  expect_near(session.logits(), whole, std::get<1>(GetParam()) == Precision::kF32 ? 1e-5f : 0.05f);
}

// The published way, layer by layer: every token finishes every layer before a stage, then the dropped ones
// leave. winnow lets them leave as soon as they are scored; the survivors must not notice.
std::vector<float> prune_after_whole_layers(const Engine& e, std::span<const TokenId> tokens,
                                            const Policy& policy,
                                            const std::vector<std::vector<std::int64_t>>& kept_at_stage) {
  const Architecture& arch = e.arch();
  Backend& backend = e.backend();
  const auto count = static_cast<std::int64_t>(tokens.size());
  const Workspace workspace(arch, backend, count);
  Buffer hidden_buffer = backend.allocate(count * arch.model_dim * 4);
  Buffer q_buffer = backend.allocate(count * dtype_bytes(backend.compute_dtype(), arch.q_dim()));
  MatrixView hidden{hidden_buffer.as<>(), DType::kF32, count, arch.model_dim};
  embed(e.weights(), e.source(), arch, backend, tokens, 0, hidden);
  std::vector<std::int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  std::size_t stage = 0;
  for (std::int64_t i = 0; i < arch.layers; ++i) {
    if (stage < policy.tokens.stages.size() && policy.tokens.stages[stage].layer == i) {
      const auto& kept = kept_at_stage[stage++];
      backend.keep_rows(hidden, kept);
      for (std::size_t j = 0; j < kept.size(); ++j) positions[j] = positions[kept[j]];
      positions.resize(kept.size());
      hidden.rows = static_cast<std::int64_t>(kept.size());
    }
    LayerKv kv;
    kv.kv_heads = arch.kv_heads;
    kv.head_dim = arch.head_dim;
    backend.reserve(kv, hidden.rows);
    const MatrixView q{q_buffer.as<>(), backend.compute_dtype(), hidden.rows, arch.q_dim()};
    const DecoderLayer layer{arch, e.weights().layers[i], e.weights().rope, backend, workspace};
    layer.project_qkv(hidden, positions, q, kv);
    std::vector<std::int64_t> rows(static_cast<std::size_t>(hidden.rows));
    std::iota(rows.begin(), rows.end(), 0);
    layer.attend(hidden, q, rows, kv, nullptr);
    layer.feed_forward(hidden);
  }
  const MatrixView normed = workspace.normed(1);
  backend.norm({.kind = arch.norm,
                .x = hidden.slice(hidden.rows - 1, 1),
                .weight = e.weights().final_norm.weight.as<float>(),
                .epsilon = arch.norm_epsilon,
                .y = normed});
  std::vector<float> logits(static_cast<std::size_t>(arch.vocab));
  backend.linear({.x = normed,
                  .weight = e.weights().lm_head.weight.get(),
                  .y = {logits.data(), DType::kF32, 1, arch.vocab}});
  return logits;
}

TEST(Pruning, DroppedTokensMayLeaveBeforeTheirLayerEnds) {
  const Engine& e = engine();
  const auto tokens = some_tokens(120);
  // Recency keeps the protected head and the last tokens: known without running anything.
  Policy policy = staged(ScorerKind::kRecency, 0.5);
  const auto kept_by_recency = [&](std::int64_t length) {
    const std::int64_t keep = keep_count(length, 0.5, policy.tokens);
    std::vector<std::int64_t> kept{0, 1};
    for (std::int64_t i = length - keep + 2; i < length; ++i) kept.push_back(i);
    return kept;
  };
  const auto expected =
      prune_after_whole_layers(e, tokens, policy, {kept_by_recency(120), kept_by_recency(60)});
  expect_near(fresh_logits(e, tokens, policy), expected, 1e-5f);
}

TEST(Pruning, EveryLayerCachesTheTokensThatReachedIt) {
  const auto tokens = some_tokens(100);
  for (const ScorerKind scorer :
       {ScorerKind::kAttention, ScorerKind::kNorm}) {  // before and after the layer ends
    Session session(engine());
    ASSERT_TRUE(session.prefill(tokens, staged(scorer, 0.7), {}));
    EXPECT_EQ(session.kv_lens(), (std::vector<std::int64_t>{100, 100, 70, 70, 49, 49}))
        << scorer_name(scorer);
    ASSERT_EQ(session.stages().size(), 2u);
    EXPECT_EQ(session.stages()[0].layer, 2);
    EXPECT_EQ(session.stages()[0].input_seq_len, 100);
    EXPECT_EQ(session.stages()[0].computed_keep_k, 70);
    EXPECT_EQ(session.stages()[0].tokens_pruned, 30);
    EXPECT_EQ(session.stages()[1].input_seq_len, 70);
    EXPECT_EQ(session.stages()[1].tokens_kept, 49);
    EXPECT_DOUBLE_EQ(session.stages()[1].cumulative_ratio, 0.49);
    EXPECT_FALSE(session.stages()[0].fallback_applied);
    EXPECT_NEAR(session.prefill_stats().avgtok(), (2 * 100 + 2 * 70 + 2 * 49) / 600.0, 1e-12);
    session.decode(5);
    EXPECT_EQ(session.kv_lens(), (std::vector<std::int64_t>{101, 101, 71, 71, 50, 50}));
  }
}

TEST(Pruning, KvFinalCutsEveryCacheToTheLastSurvivors) {
  const auto tokens = some_tokens(100);
  Policy policy = staged(ScorerKind::kAttention, 0.7);
  Session own(engine()), final_only(engine());
  const auto own_logits = logits_after(own, tokens, policy);
  policy.tokens.kv = KvMode::kFinal;
  const auto final_logits = logits_after(final_only, tokens, policy);
  EXPECT_EQ(own_logits, final_logits);  // the cut comes after the prefill
  EXPECT_EQ(final_only.kv_lens(), std::vector<std::int64_t>(6, 49));
  EXPECT_LT(final_only.kv_bytes(), own.kv_bytes());
  final_only.decode(7);
  own.decode(7);
  EXPECT_NE(std::vector<float>(own.logits().begin(), own.logits().end()),
            std::vector<float>(final_only.logits().begin(), final_only.logits().end()));
  // A further turn works on the cut caches, and cuts only its own rows.
  ASSERT_TRUE(final_only.prefill(some_tokens(40, 2), policy, {}));
  EXPECT_EQ(final_only.kv_lens(), std::vector<std::int64_t>(6, 50 + 19));  // floor(floor(40 * .7) * .7) = 19
}

TEST(Pruning, ASecondTurnIsPrunedAmongItselfAndCachedRowsStay) {
  Session session(engine());
  const Policy policy = staged(ScorerKind::kAttention, 0.5);
  ASSERT_TRUE(session.prefill(some_tokens(100), policy, {}));
  EXPECT_EQ(session.kv_lens(), (std::vector<std::int64_t>{100, 100, 50, 50, 25, 25}));
  ASSERT_TRUE(session.prefill(some_tokens(40, 9), policy, {}));
  EXPECT_EQ(session.kv_lens(), (std::vector<std::int64_t>{140, 140, 70, 70, 35, 35}));
  EXPECT_EQ(session.tokens(), 140);
  EXPECT_EQ(session.stages()[0].input_seq_len, 40);
}

TEST(Pruning, CompactPositionsDifferFromOriginalOnesOnlyAfterAStage) {
  const auto tokens = some_tokens(100);
  Policy compact = staged(ScorerKind::kAttention, 0.5);
  compact.tokens.positions = PositionMode::kCompact;
  const auto renumbered = fresh_logits(engine(), tokens, compact);
  EXPECT_NE(renumbered, fresh_logits(engine(), tokens, staged(ScorerKind::kAttention, 0.5)));
  Policy nothing = compact;
  nothing.tokens.stages.clear();
  EXPECT_EQ(fresh_logits(engine(), tokens, nothing), fresh_logits(engine(), tokens, Policy{}));
  // Rope sees differences only: after compaction the survivors are a contiguous text, so a token decoded next
  // must see the distances it would see if the survivors had been the prompt. The layers before the first
  // stage still hold the whole prompt, hence no equality to test there; what can be tested is that decoding
  // goes on and stays finite.
  Session session(engine());
  ASSERT_TRUE(session.prefill(tokens, compact, {}));
  session.decode(3);
  for (const float logit : session.logits()) ASSERT_TRUE(std::isfinite(logit));
}

TEST(Pruning, BothBackendsKeepTheSameTokens) {
  const auto tokens = some_tokens(120);
  for (const ScorerKind scorer : {ScorerKind::kAttention, ScorerKind::kNorm, ScorerKind::kRandom}) {
    const Policy policy = staged(scorer, 0.6);
    Session cpu(engine("tiny-llama", "cpu")), reference(engine("tiny-llama", "reference"));
    ASSERT_TRUE(cpu.prefill(tokens, policy, {}));
    ASSERT_TRUE(reference.prefill(tokens, policy, {}));
    for (const std::int64_t layer : {2, 5}) {
      EXPECT_TRUE(std::ranges::equal(cpu.cached_positions(layer), reference.cached_positions(layer)))
          << layer;
    }
    expect_near(fresh_logits(engine("tiny-llama", "cpu"), tokens, policy),
                fresh_logits(engine("tiny-llama", "reference"), tokens, policy), 1e-4f);
  }
}

TEST(Pruning, StagesAskHeadsOfEarlierLayers) {
  const auto tokens = some_tokens(150);
  Policy policy = staged(ScorerKind::kAttention, 0.6);
  policy.tokens.stages[0].heads = {{1, 0}};
  policy.tokens.stages[1].heads = {{3, 1}, {0, 1}};
  policy.tokens.quota = 0.7;
  std::vector<std::vector<std::int32_t>> kept;
  for (const char* device : {"reference", "cpu"}) {
    Session session(engine("tiny-llama", device));
    logits_after(session, tokens, policy);
    ASSERT_EQ(session.stages().size(), 2u);
    for (const StageRecord& stage : session.stages()) EXPECT_FALSE(stage.fallback_applied);
    const auto positions = session.cached_positions(5);
    kept.emplace_back(positions.begin(), positions.end());
  }
  EXPECT_EQ(kept[0], kept[1]);
  policy.tokens.stages[1].heads = {{3, 1}};
  Session session(engine());
  logits_after(session, tokens, policy);
  const auto positions = session.cached_positions(5);
  EXPECT_NE(kept[1], std::vector<std::int32_t>(positions.begin(), positions.end()))
      << "the head of layer 0 had a say";
}

TEST(Pruning, TheLastTokenCannotBeLeftUnprotected) {
  Policy policy = staged(ScorerKind::kRandom, 0.5);
  policy.tokens.protect_tail_min = 0;
  policy.tokens.protect_tail_share = 0;
  Session session(engine());
  expect_error(ErrorCode::kBadArgument, "protect_tail.min",
               [&] { session.prefill(some_tokens(50), policy, {}); });
}

TEST(Pruning, CompactPositionsNeedRotaryEmbeddings) {
  Policy policy = staged(ScorerKind::kRecency, 0.5);
  policy.tokens.stages.resize(1);
  policy.tokens.positions = PositionMode::kCompact;
  Session session(engine("tiny-gpt2"));
  expect_error(ErrorCode::kUnsupported, "learned positions",
               [&] { session.prefill(some_tokens(50), policy, {}); });
}

TEST(Session, AFailureAfterTheLayersLeavesTheConversationAsItWas) {
  Session session(engine()), untouched(engine());
  ASSERT_TRUE(session.prefill(some_tokens(40), Policy{}, {}));
  ASSERT_TRUE(untouched.prefill(some_tokens(40), Policy{}, {}));
  PrefillOptions options;
  options.all_logits = [](std::int64_t, const MatrixView&) { throw Error(ErrorCode::kIo, "no more"); };
  expect_error(ErrorCode::kIo, "no more", [&] { session.prefill(some_tokens(30, 3), Policy{}, options); });
  EXPECT_EQ(session.tokens(), 40);
  EXPECT_EQ(session.kv_lens(), untouched.kv_lens());
  EXPECT_EQ(logits_after(session, some_tokens(20, 4), Policy{}),
            logits_after(untouched, some_tokens(20, 4), Policy{}));
}

TEST(Session, LaterTokensDoNotChangeEarlierLogits) {
  auto tokens = some_tokens(80);
  const auto first_forty = [&](const std::vector<TokenId>& prompt) {
    std::vector<float> all;
    PrefillOptions options;
    options.all_logits = [&](std::int64_t, const MatrixView& logits) {
      all.insert(all.end(), logits.row<float>(0), logits.row<float>(0) + logits.rows * logits.cols);
    };
    Session session(engine());
    EXPECT_TRUE(session.prefill(prompt, Policy{}, options));
    all.resize(static_cast<std::size_t>(40 * engine().arch().vocab));
    return all;
  };
  const auto before = first_forty(tokens);
  for (std::size_t i = 40; i < tokens.size(); ++i) tokens[i] = 7;
  EXPECT_EQ(first_forty(tokens), before);
}

TEST(Session, ACancelledPrefillLeavesTheConversationAsItWas) {
  const auto first = some_tokens(60), second = some_tokens(30, 5);
  Session untouched(engine()), session(engine());
  ASSERT_TRUE(untouched.prefill(first, Policy{}, {}));
  ASSERT_TRUE(session.prefill(first, Policy{}, {}));
  PrefillOptions options;
  int asked = 0;
  options.cancelled = [&] { return ++asked > 3; };
  EXPECT_FALSE(session.prefill(second, Policy{}, options));
  EXPECT_EQ(session.kv_lens(), untouched.kv_lens());
  EXPECT_EQ(session.tokens(), 60);
  EXPECT_EQ(logits_after(session, second, Policy{}), logits_after(untouched, second, Policy{}));
}

TEST(Session, RefusesPromptsThatDoNotFit) {
  Session session(engine());
  const std::int64_t context = engine().arch().context;
  expect_error(ErrorCode::kBadArgument, "empty", [&] { session.prefill({}, Policy{}, {}); });
  const auto too_long = some_tokens(context + 3);
  expect_error(ErrorCode::kBadArgument, std::to_string(context + 3) + " tokens",
               [&] { session.prefill(too_long, Policy{}, {}); });
  const std::vector<TokenId> unknown{1, 2, 100000};
  expect_error(ErrorCode::kBadArgument, "100000", [&] { session.prefill(unknown, Policy{}, {}); });
  ASSERT_TRUE(session.prefill(some_tokens(context), Policy{}, {}));
  expect_error(ErrorCode::kBadArgument, "full", [&] { session.decode(1); });
  expect_error(ErrorCode::kBadArgument, "already read",
               [&] { session.prefill(some_tokens(1), Policy{}, {}); });
}

TEST(Session, MemoryIsEstimatedBeforeItIsUsed) {
  const auto tokens = some_tokens(100);
  const Policy policy = staged(ScorerKind::kAttention, 0.5);
  const MemoryEstimate dense = engine().estimate(100, 0, Policy{}),
                       pruned = engine().estimate(100, 0, policy);
  EXPECT_LT(pruned.kv, dense.kv);
  Session session(engine());
  PrefillOptions options;
  options.reserve_tokens = 0;
  ASSERT_TRUE(session.prefill(tokens, policy, options));
  EXPECT_EQ(session.kv_bytes(), pruned.kv);
}

}  // namespace
}  // namespace winnow
