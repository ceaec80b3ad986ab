// Plans and choices by hand: what a plan computes, which blocks are forced, how estimates become blocks.
#include "backends/block_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "backends/block_choice.h"

namespace winnow {
namespace {

using Blocks = std::vector<std::int64_t>;

std::vector<std::int64_t> rows(std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> result(static_cast<std::size_t>(end - begin));
  std::iota(result.begin(), result.end(), begin);
  return result;
}

Blocks blocks_of(std::span<const std::uint64_t> set) {
  Blocks blocks;
  for (std::int64_t block = 0; block < static_cast<std::int64_t>(set.size()) * 64; ++block) {
    if (contains(set, block)) blocks.push_back(block);
  }
  return blocks;
}

Blocks forced(const BlockRule& rule, std::int64_t dense_from_row, std::span<const std::int64_t> query_rows) {
  std::vector<std::uint64_t> set(4);
  add_forced(rule, dense_from_row, query_rows, set);
  return blocks_of(set);
}

Blocks chosen(BlockCriterion criterion, float threshold, std::vector<float> estimates, Blocks taken = {}) {
  std::vector<std::uint64_t> set(estimates.size() / 64 + 1);
  for (const std::int64_t block : taken) insert(set, block);
  Chooser().add(criterion, threshold, estimates, set);
  return blocks_of(set);
}

TEST(BlockSet, RangesCrossWords) {
  for (const auto& [begin, end] : {std::pair{0, 0}, {0, 64}, {63, 65}, {5, 200}, {64, 128}, {191, 192}}) {
    std::vector<std::uint64_t> set(4);
    insert_range(set, begin, end);
    EXPECT_EQ(blocks_of(set), rows(begin, end));
  }
}

TEST(BlockSets, AGroupBecomesTheUnionOfItsHeads) {
  BlockSets sets;
  sets.reset(4, 2, 100);
  insert(sets.row(0, 0), 1);
  insert(sets.row(1, 0), 70);
  insert(sets.row(1, 1), 2);
  insert(sets.row(2, 1), 3);
  insert(sets.row(3, 1), 99);
  sets.unite(2);
  ASSERT_EQ(sets.heads(), 2);
  EXPECT_EQ(blocks_of(sets.row(0, 0)), (Blocks{1, 70}));
  EXPECT_EQ(blocks_of(sets.row(0, 1)), (Blocks{2}));
  EXPECT_EQ(blocks_of(sets.row(1, 0)), Blocks{});
  EXPECT_EQ(blocks_of(sets.row(1, 1)), (Blocks{3, 99}));
}

TEST(BlockSets, WrittenAsAPlan) {
  BlockSets sets;
  sets.reset(1, 3, 130);
  for (const std::int64_t block : {0, 63, 64, 129}) insert(sets.row(0, 0), block);
  insert(sets.row(0, 2), 7);
  BlockPlan plan;
  plan.blocks = {9, 9, 9, 9, 9, 9, 9};
  write_offsets({.q_block = 16, .k_block = 8}, sets, plan);
  write_blocks(sets, 1, 3, plan);
  write_blocks(sets, 0, 1, plan);
  EXPECT_EQ(plan.offsets, (std::vector<std::int64_t>{0, 4, 4, 5}));
  EXPECT_EQ(plan.blocks, (std::vector<std::int32_t>{0, 63, 64, 129, 7}));
  EXPECT_EQ(plan.q_block, 16);
  EXPECT_EQ(plan.k_block, 8);
  EXPECT_EQ(plan.query_blocks, 3);
}

TEST(ForcedBlocks, SinkAndLocal) {
  const BlockRule rule{.k_block = 16, .sink_tokens = 17, .local_tokens = 40};
  // Rows 100-103: local rows 60..103 are blocks 3..6; sink rows 0..16 are blocks 0 and 1.
  EXPECT_EQ(forced(rule, -1, rows(100, 104)), (Blocks{0, 1, 3, 4, 5, 6}));
  EXPECT_EQ(forced(rule, -1, rows(0, 4)), (Blocks{0}));
  EXPECT_EQ(forced(rule, -1, rows(16, 18)), (Blocks{0, 1}));
  // Gaps: rows 60..100 and 160..200.
  EXPECT_EQ(forced(rule, -1, Blocks{100, 200}), (Blocks{0, 1, 3, 4, 5, 6, 10, 11, 12}));
  const BlockRule none{.k_block = 16, .sink_tokens = 0, .local_tokens = 0};
  EXPECT_EQ(forced(none, -1, rows(100, 120)), (Blocks{6, 7}));
}

TEST(ForcedBlocks, QueriesAtTheEndSeeEverything) {
  const BlockRule rule{.k_block = 16, .sink_tokens = 0, .local_tokens = 0};
  EXPECT_EQ(forced(rule, 104, rows(100, 104)), (Blocks{6}));
  EXPECT_EQ(forced(rule, 103, rows(100, 104)), rows(0, 7));  // the whole query block
  EXPECT_EQ(forced(rule, 0, rows(100, 104)), rows(0, 7));
}

TEST(ChooseByMass, FewestThatReachTheThreshold) {
  const std::vector<float> estimates{1, 4, 2, 8, 1};  // of 16
  constexpr auto kMass = BlockCriterion::kMass;
  EXPECT_EQ(chosen(kMass, 0.0f, estimates), Blocks{});
  EXPECT_EQ(chosen(kMass, 0.5f, estimates), (Blocks{3}));
  EXPECT_EQ(chosen(kMass, 0.51f, estimates), (Blocks{1, 3}));
  EXPECT_EQ(chosen(kMass, 0.75f, estimates), (Blocks{1, 3}));
  EXPECT_EQ(chosen(kMass, 0.875f, estimates), (Blocks{1, 2, 3}));
  EXPECT_EQ(chosen(kMass, 0.9f, estimates), (Blocks{1, 2, 3, 4}));  // of equal ones the later
  EXPECT_EQ(chosen(kMass, 1.0f, estimates), (Blocks{0, 1, 2, 3, 4}));
}

TEST(ChooseByMass, ForcedBlocksCountAsTaken) {
  EXPECT_EQ(chosen(BlockCriterion::kMass, 0.75f, {1, 4, 2, 8, 1}, {0, 2, 4}), (Blocks{0, 2, 3, 4}));
  EXPECT_EQ(chosen(BlockCriterion::kMass, 0.75f, {1, 4, 2, 8, 1}, {1, 3}), (Blocks{1, 3}));
}

TEST(ChooseByMass, ThresholdOneListsWhateverHasMass) {
  std::vector<float> estimates(300, 0.0f);
  estimates[0] = 1.0f;
  estimates[130] = 1e-30f;
  estimates[299] = 1e-6f;
  EXPECT_EQ(chosen(BlockCriterion::kMass, 1.0f, estimates), (Blocks{0, 130, 299}));
}

TEST(ChooseByMaximum, AllButThoseUnderTheThreshold) {
  const std::vector<float> estimates{0.1f, 0.25f, 0.249f, 0.9f, 0.0f};
  EXPECT_EQ(chosen(BlockCriterion::kMaximum, 0.25f, estimates), (Blocks{1, 3}));
  EXPECT_EQ(chosen(BlockCriterion::kMaximum, 0.25f, estimates, {4}), (Blocks{1, 3, 4}));
  EXPECT_EQ(chosen(BlockCriterion::kMaximum, 0.0f, estimates), rows(0, 5));
}

// Against the definition: sort, take until the mass is reached.
TEST(ChooseByMass, AgreesWithSorting) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    const std::int64_t count = 1 + random() % 400;
    std::vector<float> estimates;
    // Whole numbers: sums are exact, and ties are frequent.
    for (std::int64_t i = 0; i < count; ++i) {
      estimates.push_back(static_cast<float>(random() % (round % 2 == 0 ? 8 : 5000)));
    }
    Blocks taken;
    for (std::int64_t i = 0; i < count; i += 1 + random() % 40) taken.push_back(i);
    const float threshold = static_cast<float>(random() % 64) / 64;
    double mass = 0, total = std::accumulate(estimates.begin(), estimates.end(), 0.0);
    for (const std::int64_t block : taken) mass += estimates[block];
    Blocks expected = taken, order;
    for (std::int64_t i = 0; i < count; ++i) {
      if (!std::binary_search(taken.begin(), taken.end(), i)) order.push_back(i);
    }
    std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return estimates[a] != estimates[b] ? estimates[a] > estimates[b] : a > b;
    });
    for (auto it = order.begin(); it != order.end() && mass < threshold * total; ++it) {
      expected.push_back(*it);
      mass += estimates[*it];
    }
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(chosen(BlockCriterion::kMass, threshold, estimates, taken), expected)
        << "round " << round << ", threshold " << threshold;
  }
}

TEST(PlanWork, CountsCausalElementsOnly) {
  // Queries at rows 0..5 in blocks of 4; keys in blocks of 2. Causal: 1 + 2 + ... + 6.
  BlockPlan plan;
  plan.q_block = 4;
  plan.k_block = 2;
  plan.heads = 1;
  plan.query_blocks = 2;
  plan.offsets = {0, 2, 3};
  plan.blocks = {0, 1, 2};
  const PlanWork work = plan_work(plan, rows(0, 6));
  EXPECT_EQ(work.causal, 21);
  EXPECT_EQ(work.computed, (1 + 2 + 2 + 2) + (0 + 0 + 1 + 2) + (1 + 2));
}

TEST(PlanWork, TheFullPlanIsDense) {
  for (const auto& [begin, end] : {std::pair{0, 1}, {0, 70}, {37, 90}, {64, 65}}) {
    const BlockPlan plan = full_plan(16, 8, 3, rows(begin, end));
    EXPECT_EQ(plan_work(plan, rows(begin, end)).density(), 1.0);
  }
  EXPECT_EQ(plan_work(full_plan(4, 8, 2, Blocks{3, 9, 11, 40, 41}), Blocks{3, 9, 11, 40, 41}).density(), 1.0);
}

}  // namespace
}  // namespace winnow
