// Policies that exist in experiments only: eviction, oracle, ablations.
#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "eval/ablation.h"
#include "eval/attention_sums.h"
#include "eval/policy_session.h"
#include "support/eval_testing.h"

namespace winnow {
namespace {

using eval_test::tiny_engine;

std::vector<TokenId> some_tokens(std::int64_t count) {
  std::vector<TokenId> tokens;
  unsigned state = 3;
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<TokenId>((state >> 16) % 300));
  }
  return tokens;
}

EvalPolicy staged(ScorerKind scorer) {
  EvalPolicy policy;
  policy.name = "staged";
  policy.policy.tokens.stages = {{.layer = 2, .keep = 0.5, .top_p = {}},
                                 {.layer = 4, .keep = 0.5, .top_p = {}}};
  policy.policy.tokens.scorer = scorer;
  policy.policy.tokens.protect_head = 1;
  policy.policy.tokens.protect_tail_min = 2;
  policy.policy.tokens.protect_tail_share = 0;
  return policy;
}

TEST(EvalPolicy, Grammar) {
  const ModelFacts facts{.name = "m", .shape_hash = "", .layers = 30};
  EXPECT_TRUE(parse_eval_policy("dense", facts).dense());
  const EvalPolicy snapkv = parse_eval_policy("snapkv=0.3", facts);
  EXPECT_FALSE(snapkv.dense());
  EXPECT_FALSE(snapkv.timed());
  EXPECT_EQ(snapkv.eviction->kind, EvictionKind::kSnapKv);
  EXPECT_EQ(snapkv.eviction->keep, 0.3);
  const EvalPolicy staged_then = parse_eval_policy("keep08:recency>h2o=.25", facts);
  EXPECT_EQ(staged_then.eviction->kind, EvictionKind::kH2o);
  EXPECT_EQ(staged_then.policy.tokens.scorer, ScorerKind::kRecency);
  EXPECT_EQ(staged_then.policy.tokens.stages.size(), 8u);
  EXPECT_TRUE(parse_eval_policy("keep08:oracle", facts).oracle());
  EXPECT_FALSE(parse_eval_policy("keep08", facts).oracle());
  for (const char* bad :
       {"snapkv", "snapkv=", "snapkv=0", "snapkv=x", "h2o=2", "h2o=nan", "keep08>", "keep08>x=1"}) {
    EXPECT_THROW(parse_eval_policy(bad, facts), Error) << bad;
  }
  EXPECT_NE(to_json(snapkv), to_json(parse_eval_policy("snapkv=0.4", facts)));
}

TEST(Ablation, OneChangeEach) {
  const ModelFacts facts{.name = "m", .shape_hash = "", .layers = 30};
  const EvalPolicy keep08 = parse_eval_policy("keep08", facts);
  const auto stages = ablate(keep08, "stages");
  ASSERT_EQ(stages.size(), 8u);
  EXPECT_EQ(stages[1].name, "keep08~no7");
  EXPECT_EQ(stages[1].policy.tokens.stages.size(), 7u);
  for (const Stage& stage : stages[1].policy.tokens.stages) EXPECT_NE(stage.layer, 7);
  const auto positions = ablate(keep08, "positions");
  ASSERT_EQ(positions.size(), 2u);
  EXPECT_EQ(positions[1].policy.tokens.positions, PositionMode::kCompact);
  const auto tails = ablate(keep08, "protection");
  ASSERT_EQ(tails.size(), 4u);
  EXPECT_EQ(tails[0].policy.tokens.protect_tail_share, 0);
  EXPECT_EQ(tails[0].policy.tokens.protect_tail_min, 1);
  EXPECT_EQ(tails[1].policy.tokens.protect_tail_min, 8);
  EXPECT_DOUBLE_EQ(tails[3].policy.tokens.protect_tail_share, 0.2);
  const auto windows = ablate(keep08, "window");
  ASSERT_EQ(windows.size(), 5u);
  EXPECT_EQ(windows[4].policy.tokens.window, 256);
  EXPECT_EQ(windows[4].name, "keep08~window256");
  EXPECT_THROW(ablate(keep08, "colour"), Error);
  EXPECT_THROW(ablate(parse_eval_policy("dense", facts), "stages"), Error);
  EXPECT_THROW(ablate(parse_eval_policy("keep08:recency", facts), "window"), Error);
}

class AttentionOps : public testing::Test {
 protected:
  const Engine& engine_ = tiny_engine("reference");
};

TEST_F(AttentionOps, SumsAreProbabilities) {
  const auto tokens = some_tokens(60);
  AttentionSums sums(engine_);
  Session session(engine_);
  PrefillOptions options;
  options.observe_attention = [&](const AttentionView& view) { sums.add(view); };
  ASSERT_TRUE(session.prefill(tokens, Policy{}, options));
  for (std::int64_t layer = 0; layer < engine_.arch().layers; ++layer) {
    const auto mean = sums.mean_over_heads(layer), most = sums.max_over_heads(layer);
    ASSERT_EQ(mean.size(), tokens.size());
    EXPECT_NEAR(std::accumulate(mean.begin(), mean.end(), 0.0), 60.0, 1e-3);  // each query gives 1
    for (std::size_t i = 0; i < mean.size(); ++i) EXPECT_GE(most[i] * 1.00001f, mean[i]);
    // The first token is seen by all queries and gets all of the first one's attention.
    EXPECT_GE(mean[0], 1.0f);
    EXPECT_LE(mean[59], 1.0f);
  }
}

TEST_F(AttentionOps, EvictionCutsEveryCacheAndDecodes) {
  const auto tokens = some_tokens(80);
  for (const EvictionKind kind : {EvictionKind::kSnapKv, EvictionKind::kH2o}) {
    EvalPolicy policy{"evict", Policy{}, KvEviction{kind, 0.25, 8, 3}};
    PolicySession reader(engine_, policy);
    ASSERT_TRUE(reader.read(tokens, nullptr, 4, {}));
    EXPECT_EQ(reader.session().kv_lens(), std::vector<std::int64_t>(6, 20));
    EXPECT_DOUBLE_EQ(reader.facts().kv_share, 0.25);
    EXPECT_EQ(reader.facts().avgtok, 1.0);  // everything was computed
    EXPECT_EQ(reader.session().cached_positions(3).back(), 79);
    reader.session().decode(5);
    EXPECT_EQ(reader.session().kv_lens(), std::vector<std::int64_t>(6, 21));
    EXPECT_EQ(reader.session().cached_positions(3).back(), 80);
  }
}

TEST_F(AttentionOps, EvictingNothingChangesNothing) {
  const auto tokens = some_tokens(80);
  const EvalPolicy all{"all", Policy{}, KvEviction{EvictionKind::kSnapKv, 1.0}};
  const EvalPolicy dense{"dense", Policy{}, std::nullopt};
  PolicySession a(engine_, all), b(engine_, dense);
  ASSERT_TRUE(a.read(tokens, nullptr, 4, {}));
  ASSERT_TRUE(b.read(tokens, nullptr, 4, {}));
  a.session().decode(5);
  b.session().decode(5);
  EXPECT_TRUE(
      std::equal(a.session().logits().begin(), a.session().logits().end(), b.session().logits().begin()));
}

TEST_F(AttentionOps, EvictionAfterStages) {
  const auto tokens = some_tokens(80);
  EvalPolicy policy = staged(ScorerKind::kRecency);
  policy.eviction = KvEviction{EvictionKind::kH2o, 0.5};
  PolicySession reader(engine_, policy);
  ASSERT_TRUE(reader.read(tokens, nullptr, 4, {}));
  EXPECT_EQ(reader.session().kv_lens(), (std::vector<std::int64_t>{40, 40, 20, 20, 10, 10}));
}

TEST_F(AttentionOps, OracleKeepsWhatTheContinuationLooksAt) {
  const auto tokens = some_tokens(100);
  const std::span<const TokenId> prompt = std::span(tokens).first(80), following = std::span(tokens).last(20);
  const auto oracle = Oracle::observe(engine_, prompt, following, {});
  ASSERT_TRUE(oracle);
  std::vector<std::int32_t> places(80);
  std::iota(places.begin(), places.end(), 0);
  std::vector<float> early(80), late(80);
  oracle->score(2, places, 0, early);
  oracle->score(5, places, 0, late);
  for (std::size_t i = 0; i < 80; ++i) EXPECT_GE(early[i], late[i]);  // a maximum over more layers

  // By hand: all 100 tokens in one pass, the queries at places 79..98.
  std::vector<float> expected(80);
  Session session(engine_);
  PrefillOptions options;
  std::vector<float> probs(100 * 100);
  options.observe_attention = [&](const AttentionView& view) {
    if (view.layer != 5) return;
    for (std::int64_t h = 0; h < engine_.arch().heads; ++h) {
      engine_.backend().attention_probs({.q = view.q,
                                         .query_rows = view.query_rows,
                                         .kv = view.kv,
                                         .scale = view.scale,
                                         .head = h,
                                         .probs = {probs.data(), DType::kF32, 100, 100}});
      for (std::size_t j = 0; j < 80; ++j) {
        float sum = 0;
        for (std::size_t i = 79; i < 99; ++i) sum += probs[i * 100 + j];
        expected[j] = std::max(expected[j], sum);
      }
    }
  };
  ASSERT_TRUE(session.prefill(tokens, Policy{}, options));
  for (std::size_t i = 0; i < 80; ++i) EXPECT_NEAR(late[i], expected[i], 1e-4f) << i;

  const EvalPolicy policy = staged(ScorerKind::kOracle);
  PolicySession reader(engine_, policy);
  ASSERT_TRUE(reader.read(prompt, &*oracle, 4, {}));
  const auto kept = reader.session().cached_positions(5);
  EXPECT_EQ(kept.size(), 20u);
  EXPECT_FALSE(reader.session().stages()[0].fallback_applied);
  // The token that the continuation looks at most is protected by nothing but its score.
  const auto best = std::max_element(late.begin() + 1, late.end() - 2) - late.begin();
  EXPECT_NE(std::find(kept.begin(), kept.end(), static_cast<std::int32_t>(best)), kept.end());
}

}  // namespace
}  // namespace winnow
