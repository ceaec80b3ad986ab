// Attention over selected blocks in whole prefills: equal to dense where everything is listed, equal to the
// reference where not, counted rightly, and only where the costs say so.
#include "runtime/block_attention.h"

#include <gtest/gtest.h>

#include <numeric>

#include "sparsity/selector.h"
#include "support/format_testing.h"
#include "support/session_testing.h"

namespace winnow {
namespace {

// A selector with blocks small enough for tiny prompts, and no gate.
Policy sparse(SelectorKind selector, float threshold = 0.9f) {
  Policy policy;
  policy.name = selector_name(selector);
  policy.attention = attention_policy(selector);
  policy.attention.thresholds = {{threshold}};
  policy.attention.gate = false;
  policy.attention.dense_last_tokens = 0;
  BlockRule& rule = policy.attention.rule;
  rule.q_block = 16;
  rule.k_block = 16;
  rule.pool = 8;
  rule.stride = 4;
  rule.sink_tokens = 4;
  rule.local_tokens = 16;
  return policy;
}

Policy with_attention(Policy policy, const Policy& other) {
  policy.attention = other.attention;
  return policy;
}

// Every block is local.
Policy everything_local() {
  Policy policy = sparse(SelectorKind::kLocal);
  policy.attention.rule.local_tokens = 100000;
  return policy;
}

constexpr SelectorKind kSelectors[] = {SelectorKind::kExactMass,     SelectorKind::kThreshold,
                                       SelectorKind::kAntidiagonal,  SelectorKind::kPooled,
                                       SelectorKind::kVerticalSlash, SelectorKind::kLocal};

// Low enough that something is left out of the tiny models' nearly even attention.
float threshold_for(SelectorKind selector) {
  if (selector == SelectorKind::kThreshold) return 0.05f;
  return selector == SelectorKind::kVerticalSlash ? 0.2f : 0.7f;
}

class EveryBackend : public testing::TestWithParam<std::tuple<const char*, const char*, Precision>> {
 protected:
  const Engine& model() const {
    return engine(std::get<0>(GetParam()), std::get<1>(GetParam()), std::get<2>(GetParam()));
  }
};
INSTANTIATE_TEST_SUITE_P(Models, EveryBackend,
                         testing::Combine(testing::Values("tiny-llama", "tiny-gpt2"),
                                          testing::Values("cpu", "reference"),
                                          testing::Values(Precision::kF32, Precision::kBF16)));

TEST_P(EveryBackend, ListingEverythingIsBitForBitDense) {
  const auto tokens = some_tokens(150);
  const auto dense = fresh_logits(model(), tokens, Policy{});
  EXPECT_EQ(fresh_logits(model(), tokens, everything_local()), dense);
  EXPECT_EQ(fresh_logits(model(), tokens, sparse(SelectorKind::kExactMass, 1.0f)), dense);
}

TEST_P(EveryBackend, SomethingIsLeftOutAndTheSameEachTime) {
  const auto tokens = some_tokens(150);
  for (const SelectorKind selector : kSelectors) {
    SCOPED_TRACE(selector_name(selector));
    const Policy policy = sparse(selector, threshold_for(selector));
    Session session(model());
    const auto logits = logits_after(session, tokens, policy);
    EXPECT_LT(session.prefill_stats().density(), 1.0);
    EXPECT_GT(session.prefill_stats().density(), 0.1);
    EXPECT_EQ(fresh_logits(model(), tokens, policy), logits);
  }
}

// On the float32 models no block lies so near a cut that rounding decides about it; in bf16 queries and keys
// differ between the backends, and with them the plans.
TEST(BlockAttention, BothBackendsAgree) {
  const auto tokens = some_tokens(150);
  for (const char* model : {"tiny-llama", "tiny-qwen2", "tiny-gpt2"}) {
    for (const SelectorKind selector : kSelectors) {
      SCOPED_TRACE(std::string(model) + " " + selector_name(selector));
      const Policy policy = sparse(selector, threshold_for(selector));
      expect_near(fresh_logits(engine(model), tokens, policy),
                  fresh_logits(engine(model, "reference"), tokens, policy), 1e-4f);
    }
    // Local blocks do not depend on values: bf16 has the same plan.
    const Policy local = sparse(SelectorKind::kLocal);
    expect_near(fresh_logits(engine(model, "cpu", Precision::kBF16), tokens, local),
                fresh_logits(engine(model, "reference", Precision::kBF16), tokens, local), 0.05f);
  }
}

TEST(BlockAttention, MeansAndUnionsAgreeToo) {
  const auto tokens = some_tokens(150);
  for (const SelectorKind selector : {SelectorKind::kPooled, SelectorKind::kLocal}) {
    Policy policy = sparse(selector, 0.6f);
    policy.attention.rule.group_union = true;
    const auto without = fresh_logits(engine(), tokens, policy);
    policy.attention.rule.mean_correction = true;
    const auto with = fresh_logits(engine(), tokens, policy);
    expect_near(with, fresh_logits(engine("tiny-llama", "reference"), tokens, policy), 1e-4f);
    EXPECT_NE(with, without);
  }
}

// Pairs that blocks of `block` rows cover when `sink` first rows and `local` rows before a query block's are
// listed, for the queries [first, tokens) of one causal layer.
double local_pairs(std::int64_t first, std::int64_t tokens, std::int64_t block, std::int64_t sink,
                   std::int64_t local) {
  double pairs = 0;
  for (std::int64_t row = first; row < tokens; ++row) {
    const std::int64_t block_start = first + (row - first) / block * block;
    const std::int64_t local_from = std::max<std::int64_t>(0, block_start - local) / block;
    for (std::int64_t key = 0; key <= row; ++key) {
      const std::int64_t key_block = key / block;
      pairs += key_block >= local_from || key_block * block < sink ? 1 : 0;
    }
  }
  return pairs;
}

TEST(BlockAttention, StatsCountWhatLocalBlocksCover) {
  const std::int64_t tokens = 150, layers = engine().arch().layers;
  Session session(engine());
  ASSERT_TRUE(session.prefill(some_tokens(tokens), sparse(SelectorKind::kLocal), {}));
  const double triangle = 150.0 * 151 / 2, local = local_pairs(0, tokens, 16, 4, 16);
  const double last = local_pairs(149, tokens, 16, 4, 16);  // of the last layer one query is computed
  const PassStats& stats = session.prefill_stats();
  EXPECT_DOUBLE_EQ(stats.attention_pairs, static_cast<double>(layers - 1) * local + last);
  EXPECT_DOUBLE_EQ(stats.causal_pairs, static_cast<double>(layers - 1) * triangle + 150);
  EXPECT_DOUBLE_EQ(stats.density(), stats.attention_pairs / stats.causal_pairs);
  EXPECT_DOUBLE_EQ(stats.attn_work(), stats.attention_pairs / (static_cast<double>(layers) * triangle));
  EXPECT_DOUBLE_EQ(stats.attention_flops,
                   4.0 * static_cast<double>(engine().arch().q_dim()) * stats.attention_pairs);
  EXPECT_EQ(stats.sparse_chunks, layers);
  EXPECT_EQ(stats.dense_chunks, 0);
  ASSERT_EQ(session.block_stats().size(), static_cast<std::size_t>(layers));
  EXPECT_DOUBLE_EQ(session.block_stats()[0].density(), local / triangle);
  EXPECT_EQ(session.block_stats()[0].rows, 150);
  EXPECT_EQ(session.block_stats().back().rows, 1);
}

TEST(BlockAttention, StatsOfDensePrefills) {
  Session session(engine());
  ASSERT_TRUE(session.prefill(some_tokens(60), Policy{}, {}));
  EXPECT_EQ(session.prefill_stats().density(), 1.0);
  EXPECT_EQ(session.prefill_stats().sparse_chunks, 0);
  EXPECT_EQ(session.prefill_stats().plan_ms, 0);
  EXPECT_TRUE(session.block_stats().empty());
}

TEST(BlockAttention, DensityIsAmongTheSurvivors) {
  const Policy policy =
      with_attention(staged(ScorerKind::kAttention, 0.5), sparse(SelectorKind::kPooled, 0.7f));
  Session session(engine());
  ASSERT_TRUE(session.prefill(some_tokens(150), policy, {}));
  const PassStats& stats = session.prefill_stats();
  EXPECT_LT(stats.causal_pairs, stats.dense_attention_pairs);
  EXPECT_LT(stats.attention_pairs, stats.causal_pairs);
  EXPECT_EQ(session.block_stats()[1].rows, 75) << "dropped tokens leave inside the layer before the stage";
  EXPECT_EQ(session.kv_lens(), (std::vector<std::int64_t>{150, 150, 75, 75, 37, 37}));
}

TEST(BlockAttention, StagesAndSelectorsTogetherAgreeWithTheReference) {
  const auto tokens = some_tokens(150), more = some_tokens(90, 7);
  for (const SelectorKind selector : {SelectorKind::kPooled, SelectorKind::kAntidiagonal,
                                      SelectorKind::kVerticalSlash, SelectorKind::kExactMass}) {
    SCOPED_TRACE(selector_name(selector));
    Policy policy =
        with_attention(staged(ScorerKind::kAttention, 0.6), sparse(selector, threshold_for(selector)));
    policy.attention.dense_last_tokens = 20;
    policy.tokens.kv = KvMode::kFinal;
    Session cpu(engine()), reference(engine("tiny-llama", "reference"));
    expect_near(logits_after(cpu, tokens, policy), logits_after(reference, tokens, policy), 1e-4f);
    expect_near(logits_after(cpu, more, policy), logits_after(reference, more, policy), 1e-4f);
    EXPECT_EQ(cpu.kv_lens(), reference.kv_lens());
    cpu.decode(3);
    reference.decode(3);
    expect_near(cpu.logits(), reference.logits(), 1e-4f);
  }
}

TEST(BlockAttention, KeepOneAndEveryBlockIsBitForBitDense) {
  const auto tokens = some_tokens(150), more = some_tokens(70, 3);
  const Policy all = with_attention(staged(ScorerKind::kAttention, 1.0), everything_local());
  Session session(engine()), dense(engine());
  EXPECT_EQ(logits_after(session, tokens, all), logits_after(dense, tokens, Policy{}));
  EXPECT_EQ(logits_after(session, more, all), logits_after(dense, more, Policy{})) << "and the second turn";
}

TEST(BlockAttention, TheLastTokensSeeEverything) {
  Policy policy = sparse(SelectorKind::kLocal);
  policy.attention.dense_last_tokens = 40;
  const std::int64_t tokens = 150;
  Session session(engine());
  ASSERT_TRUE(session.prefill(some_tokens(tokens), policy, {}));
  // Query blocks that hold one of the last 40: from row 96 (of 110) on.
  double expected = local_pairs(0, 96, 16, 4, 16);
  for (std::int64_t row = 96; row < tokens; ++row) expected += static_cast<double>(row + 1);
  EXPECT_DOUBLE_EQ(session.block_stats()[0].computed_pairs, expected);
}

TEST(BlockAttention, FirstLayersStayDense) {
  Policy policy = sparse(SelectorKind::kLocal);
  policy.attention.dense_first_layers = 2;
  Session session(engine());
  ASSERT_TRUE(session.prefill(some_tokens(100), policy, {}));
  for (const BlockRecord& record : session.block_stats()) {
    const bool first = record.layer < 2;
    EXPECT_EQ(record.density() == 1.0, first) << record.layer;
    EXPECT_EQ(record.gated, first ? DenseReason::kFirstLayers : DenseReason::kNone);
    EXPECT_EQ(record.dense_chunks, first ? 1 : 0);
  }
}

// An engine of its own with the costs given; the shared ones have cheap blocks.
std::unique_ptr<Engine> engine_costing(const AttentionCosts& costs) {
  return Engine::open({.model = WINNOW_TEST_DATA "/models/tiny-llama",
                       .random_weights = "",
                       .device = "cpu",
                       .precision = Precision::kF32,
                       .threads = 2,
                       .progress = {},
                       .attention_costs = [costs](const BlockRule&) { return costs; }});
}

TEST(Gate, DenseWhereEvenTheForcedBlocksCostMore) {
  const auto e = engine_costing({.dense_ns = 1, .sparse_ns = 1, .setup_ns = 1e6, .plan_ns = 1});
  const auto tokens = some_tokens(150);
  Policy policy = sparse(SelectorKind::kPooled, 0.5f);
  policy.attention.gate = true;
  Session session(*e);
  EXPECT_EQ(logits_after(session, tokens, policy), fresh_logits(*e, tokens, Policy{}));
  EXPECT_EQ(session.prefill_stats().sparse_chunks, 0);
  EXPECT_EQ(session.prefill_stats().plan_ms, 0) << "nothing was planned";
  for (const BlockRecord& record : session.block_stats()) EXPECT_EQ(record.gated, DenseReason::kShort);
  policy.attention.gate = false;
  ASSERT_TRUE(session.prefill(tokens, policy, {}));
  EXPECT_EQ(session.prefill_stats().dense_chunks, 0) << "without the gate costs do not matter";
}

TEST(Gate, DenseWhereThePlanLeavesTooLittleOut) {
  // Break-even at density .8 of what is cheap to plan.
  const auto e = engine_costing({.dense_ns = 0.8, .sparse_ns = 1, .setup_ns = 1e-9, .plan_ns = 1e-9});
  const auto tokens = some_tokens(400);
  Policy dense_plan = sparse(SelectorKind::kExactMass, 1.0f), sparse_plan = sparse(SelectorKind::kLocal);
  dense_plan.attention.gate = sparse_plan.attention.gate = true;
  Session session(*e);
  EXPECT_EQ(logits_after(session, tokens, dense_plan), fresh_logits(*e, tokens, Policy{}));
  const BlockRecord first = session.block_stats()[0];
  EXPECT_EQ(first.gated, DenseReason::kTooDense);
  EXPECT_EQ(first.density(), 1.0);
  EXPECT_GT(first.plan_ms, 0);
  ASSERT_TRUE(session.prefill(some_tokens(100, 2), sparse_plan, {}));
  EXPECT_LT(session.block_stats()[0].density(), 0.5);
  EXPECT_EQ(session.block_stats()[0].sparse_chunks, 1);
}

TEST(Gate, IsAskedForEveryChunk) {
  // Queries at all of 1,024 rows in two chunks. A query's forced blocks are about 16 + 16 + 16 = 48 rows: 19%
  // of the first chunk's pairs and 6% of the second's. At prices of 1 to 0.12 only the second is worth
  // planning.
  const AttentionCosts costs{.dense_ns = 0.12, .sparse_ns = 1, .setup_ns = 1e-9, .plan_ns = 1e-9};
  constexpr std::int64_t kRows = 1024, kHeadDim = 8, kChunk = 512;
  const auto backend = make_reference_backend(Precision::kF32);
  LayerKv kv;
  kv.kv_heads = 1;
  kv.head_dim = kHeadDim;
  backend->reserve(kv, kRows);
  std::vector<float> qkv(kRows * 3 * kHeadDim, 0.5f), q(kRows * kHeadDim);
  std::vector<std::int32_t> positions(kRows);
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<std::int64_t> rows(positions.begin(), positions.end());
  const RopeTable no_rotation;
  const MatrixView queries{q.data(), DType::kF32, kRows, kHeadDim};
  backend->rope_append({.qkv = {qkv.data(), DType::kF32, kRows, 3 * kHeadDim},
                        .positions = positions,
                        .rope = &no_rotation,
                        .q = queries,
                        .kv = &kv});
  const Policy policy = sparse(SelectorKind::kLocal);
  LayerPlanner planner(policy.attention, &costs, *backend, {0, queries, rows, &kv, 1.0f}, kRows);
  const std::span<const std::int64_t> all(rows);
  EXPECT_EQ(planner.plan(queries.slice(0, kChunk), all.first(kChunk)), nullptr);
  EXPECT_EQ(planner.record().gated, DenseReason::kShort);
  EXPECT_EQ(planner.record().computed_pairs, 512 * 513 / 2);
  const BlockPlan* plan = planner.plan(queries.slice(kChunk, kChunk), all.last(kChunk));
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->query_blocks, kChunk / 16);
  EXPECT_EQ(planner.record().sparse_chunks, 1);
  EXPECT_EQ(planner.record().dense_chunks, 1);
  EXPECT_EQ(planner.record().causal_pairs, 1024 * 1025 / 2);
  EXPECT_DOUBLE_EQ(planner.record().computed_pairs,
                   512 * 513 / 2 + plan_work(*plan, all.last(kChunk)).computed);
}

TEST(Gate, RecordsSayWhy) {
  BlockRecord record{.layer = 3, .rows = 10, .computed_pairs = 25, .causal_pairs = 50};
  record.gated = DenseReason::kTooDense;
  const nlohmann::json json = to_json(record);
  EXPECT_EQ(json.at("layer"), 3);
  EXPECT_EQ(json.at("density"), 0.5);
  EXPECT_EQ(json.at("gated"), "too dense");
  EXPECT_STREQ(dense_reason_name(DenseReason::kNone), "");
  EXPECT_STREQ(dense_reason_name(DenseReason::kShort), "short");
  EXPECT_STREQ(dense_reason_name(DenseReason::kFirstLayers), "first layers");
}

TEST(DecodeSelected, EqualsDenseWhenEverythingIsListed) {
  const auto tokens = some_tokens(120);
  Policy selected = everything_local(), dense = everything_local();
  selected.attention.decode = DecodeMode::kSelected;
  Session a(engine()), b(engine());
  logits_after(a, tokens, selected);
  logits_after(b, tokens, dense);
  for (TokenId token = 0; token < 40; ++token) {
    a.decode(token);
    b.decode(token);
    // Not bit for bit: the kernel of a single query sums in another order than the one over blocks.
    expect_near(a.logits(), b.logits(), 1e-5f);
  }
  EXPECT_EQ(a.decode_stats().attention_pairs, b.decode_stats().attention_pairs);
}

TEST(DecodeSelected, ReadsTheListedBlocksOnly) {
  const auto tokens = some_tokens(120);
  for (const SelectorKind selector :
       {SelectorKind::kLocal, SelectorKind::kPooled, SelectorKind::kAntidiagonal, SelectorKind::kExactMass}) {
    SCOPED_TRACE(selector_name(selector));
    Policy policy = sparse(selector, 0.6f);
    policy.attention.decode = DecodeMode::kSelected;
    Session cpu(engine()), reference(engine("tiny-llama", "reference"));
    logits_after(cpu, tokens, policy);
    logits_after(reference, tokens, policy);
    for (TokenId token = 1; token < 20; ++token) {  // past a block's end
      cpu.decode(token);
      reference.decode(token);
      expect_near(cpu.logits(), reference.logits(), 1e-4f);
    }
    EXPECT_LT(cpu.decode_stats().density(), 1.0);
    EXPECT_LT(cpu.decode_stats().attention_flops,
              4.0 * static_cast<double>(engine().arch().q_dim()) * cpu.decode_stats().causal_pairs);
    // A further turn, and decoding after it: planners of the old caches are gone.
    expect_near(logits_after(cpu, some_tokens(50, 9), policy),
                logits_after(reference, some_tokens(50, 9), policy), 1e-4f);
    cpu.decode(5);
    reference.decode(5);
    expect_near(cpu.logits(), reference.logits(), 1e-4f);
  }
}

TEST(DecodeSelected, IsNotTheDefault) {
  Session session(engine());
  logits_after(session, some_tokens(120), sparse(SelectorKind::kLocal));
  session.decode(1);
  EXPECT_EQ(session.decode_stats().density(), 1.0);
}

TEST(BlockAttention, MemoryOfPlanningIsEstimated) {
  const Engine& e = engine();
  const auto dense = e.estimate(400, 10, Policy{}), local = e.estimate(400, 10, sparse(SelectorKind::kLocal)),
             pooled = e.estimate(400, 10, sparse(SelectorKind::kPooled));
  EXPECT_EQ(local.kv, dense.kv);
  EXPECT_GT(local.activations, dense.activations);
  EXPECT_GT(pooled.activations, local.activations);
  EXPECT_GE(e.estimate(400, 10, sparse(SelectorKind::kAntidiagonal)).activations,
            local.activations + e.backend().kv_bytes(e.arch().kv_heads, e.arch().head_dim, 400) / 2);
  Policy selected = sparse(SelectorKind::kPooled);
  selected.attention.decode = DecodeMode::kSelected;
  EXPECT_GT(e.estimate(400, 10, selected).activations, pooled.activations);
}

}  // namespace
}  // namespace winnow
