// Selector and layer -> what a planner is told.
#include "sparsity/selector.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

TEST(PlannerParams, EveryHeadGetsItsThreshold) {
  AttentionPolicy policy = attention_policy(SelectorKind::kAntidiagonal);
  policy.rule.stride = 4;
  policy.thresholds = {{0.5f}, {0.6f, 0.7f, 0.8f}};
  EXPECT_EQ(planner_params(policy, 0, {0, 3}).thresholds, (std::vector<float>{0.5f, 0.5f, 0.5f}));
  EXPECT_EQ(planner_params(policy, 1, {0, 3}).thresholds, (std::vector<float>{0.6f, 0.7f, 0.8f}));
  EXPECT_EQ(planner_params(policy, 1, {0, 3}).rule.stride, 4);
  EXPECT_EQ(planner_params(policy, 1, {0, 3}).rule.estimator, BlockEstimator::kAntidiagonal);
  policy.thresholds = {{0.9f}};
  EXPECT_EQ(planner_params(policy, 17, {0, 2}).thresholds, (std::vector<float>{0.9f, 0.9f}));
}

TEST(AttentionPolicy, OfDenseSkipsNothing) { EXPECT_TRUE(attention_policy(SelectorKind::kDense).dense()); }

}  // namespace
}  // namespace winnow
