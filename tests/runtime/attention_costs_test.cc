// Decisions from costs, and the file that keeps them.
#include "runtime/attention_costs.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/mapped_file.h"
#include "support/format_testing.h"

namespace winnow {
namespace {

using nlohmann::json;

TEST(AttentionCosts, PlanningMayPay) {
  const AttentionCosts costs{.dense_ns = 2, .sparse_ns = 3, .setup_ns = 10, .plan_ns = 0.5};
  // 2 * 1000 for all; planning .5 * 1000; so 3 * forced + 10 * rows must stay under 1500.
  EXPECT_TRUE(costs.planning_may_pay(0, 1000, 499));
  EXPECT_FALSE(costs.planning_may_pay(0, 1000, 500));
  EXPECT_TRUE(costs.planning_may_pay(60, 1000, 299));
  EXPECT_FALSE(costs.planning_may_pay(60, 1000, 300));
}

TEST(AttentionCosts, PlanPaysBelowTheBreakEvenDensity) {
  const AttentionCosts costs{.dense_ns = 2, .sparse_ns = 4};
  EXPECT_TRUE(costs.plan_pays({.computed = 49, .causal = 100}));
  EXPECT_FALSE(costs.plan_pays({.computed = 50, .causal = 100}));
}

class CostsCache : public testing::Test {
 protected:
  // What a fresh process gets; counts measurements.
  AttentionCosts get(const std::string& key, double dense_ns) {
    AttentionCostsCache cache(path_);
    const auto measure = [&] {
      ++measured_;
      return AttentionCosts{dense_ns, 2, 3, 4};
    };
    const AttentionCosts first = cache.get(key, measure);
    EXPECT_EQ(cache.get(key, measure).dense_ns, first.dense_ns) << "the same all along";
    return first;
  }

  TemporaryFolder folder_;
  std::string path_ = (folder_.path() / "sub" / "costs.json").string();
  int measured_ = 0;
};

TEST_F(CostsCache, MeasuresAKeyOnce) {
  const double exact = 0.1 + 0.2;  // must come back bit for bit: decisions hang on it
  EXPECT_EQ(get("a", exact).dense_ns, exact);
  EXPECT_EQ(get("a", 99).dense_ns, exact);
  EXPECT_EQ(get("b", 7).dense_ns, 7);
  EXPECT_EQ(get("a", 99).plan_ns, 4);
  EXPECT_EQ(get("b", 99).dense_ns, 7);
  EXPECT_EQ(measured_, 2);
}

TEST_F(CostsCache, FaultyFilesAreMeasuredAgainAndReplaced) {
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path());
  for (
      const char* content :
      {"", "no json", "[]", "{\"version\": 2, \"costs\": {}}", R"({"version": 1, "costs": []})",
       R"({"version": 1, "costs": {"a": 5}})", R"({"version": 1, "costs": {"a": {"dense_ns": 1}}})",
       R"({"version": 1, "costs": {"a": {"dense_ns": -1, "sparse_ns": 1, "setup_ns": 1, "plan_ns": 1}}})",
       R"({"version": 1, "costs": {"a": {"dense_ns": "1", "sparse_ns": 1, "setup_ns": 1, "plan_ns": 1}}})"}) {
    SCOPED_TRACE(content);
    folder_.write("sub/costs.json", content);
    measured_ = 0;
    EXPECT_EQ(get("a", 5).dense_ns, 5);
    EXPECT_EQ(get("a", 6).dense_ns, 5);
    EXPECT_EQ(measured_, 1);
  }
}

TEST_F(CostsCache, WhatCannotBeWrittenIsMeasuredByEveryProcess) {
  folder_.write("file", "");
  path_ = (folder_.path() / "file" / "costs.json").string();  // its folder is a file
  EXPECT_EQ(get("a", 5).dense_ns, 5);
  EXPECT_EQ(get("a", 6).dense_ns, 6);
  path_.clear();
  EXPECT_EQ(get("a", 7).dense_ns, 7);
  EXPECT_EQ(measured_, 3);
}

TEST(AttentionCostsKey, TellsApartWhatCostsDiffer) {
  const auto f32 = make_reference_backend(Precision::kF32), bf16 = make_reference_backend(Precision::kBF16);
  const AttentionShape shape{9, 3, 64};
  BlockRule rule;
  const std::string key = attention_costs_key(*f32, shape, rule);
  EXPECT_EQ(attention_costs_key(*f32, shape, rule), key);
  EXPECT_NE(attention_costs_key(*bf16, shape, rule), key);
  EXPECT_NE(attention_costs_key(*f32, {9, 3, 128}, rule), key);
  rule.k_block = 64;
  EXPECT_NE(attention_costs_key(*f32, shape, rule), key);
  rule = {};
  rule.local_tokens = 1000;  // what is listed changes no price
  EXPECT_EQ(attention_costs_key(*f32, shape, rule), key);
}

TEST(MeasureAttentionCosts, FindsPositiveOnes) {
  const auto backend = make_reference_backend(Precision::kF32);
  for (const BlockEstimator estimator : {BlockEstimator::kNone, BlockEstimator::kPooled,
                                         BlockEstimator::kAntidiagonal, BlockEstimator::kVerticalSlash}) {
    BlockRule rule;
    rule.estimator = estimator;
    rule.mean_correction = true;
    rule.group_union = true;
    const AttentionCosts costs = measure_attention_costs(*backend, {2, 1, 8}, rule);
    EXPECT_GT(costs.dense_ns, 0);
    EXPECT_GT(costs.sparse_ns, 0);
    EXPECT_GT(costs.setup_ns, 0);
    EXPECT_GT(costs.plan_ns, 0);
  }
}

}  // namespace
}  // namespace winnow
