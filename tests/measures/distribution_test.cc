#include "measures/distribution.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace winnow {
namespace {

using Row = std::vector<float>;

Row logits_of(const std::vector<double>& probabilities, double shift) {
  Row row;
  for (const double p : probabilities) row.push_back(static_cast<float>(std::log(p) + shift));
  return row;
}

TEST(Distribution, HandComputed) {
  const Row p = logits_of({0.5, 0.25, 0.25}, 3), q = logits_of({0.25, 0.25, 0.5}, -2);
  EXPECT_NEAR(log_sum_exp(p), 3, 1e-6);
  EXPECT_NEAR(cross_entropy(p, 0), std::log(2), 1e-6);
  EXPECT_NEAR(cross_entropy(q, 0), std::log(4), 1e-6);
  // 0.5 ln 2 + 0 - 0.25 ln 2
  EXPECT_NEAR(kl_divergence(p, q), 0.25 * std::log(2), 1e-6);
  EXPECT_EQ(top1(p), 0);
  EXPECT_EQ(top1(q), 2);
  EXPECT_EQ(top1(Row{1, 2, 2, 0}), 1);  // of equals the first
}

TEST(Distribution, NoLogitIsTooLarge) {
  const Row p{1e30f, 1e30f, -1e30f};
  EXPECT_NEAR(cross_entropy(p, 1), std::log(2), 1e-12);
  EXPECT_EQ(kl_divergence(p, p), 0);
  EXPECT_NEAR(log_sum_exp(Row{-5000, -5000}), -5000 + std::log(2), 1e-12);
}

TEST(Distribution, WhatOneCannotSay) {
  const float never = -std::numeric_limits<float>::infinity();
  EXPECT_NEAR(kl_divergence(Row{0, never}, Row{0, 0}), std::log(2), 1e-12);  // 0 ln 0 = 0
  EXPECT_EQ(kl_divergence(Row{0, 0}, Row{0, never}), std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(kl_divergence(Row{0, NAN}, Row{0, 0})));
}

// Against the definition in long double, on random rows.
TEST(Distribution, DefinitionOnRandomRows) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 4);
  for (int round = 0; round < 20; ++round) {
    Row p(static_cast<std::size_t>(1 + round * 37)), q(p.size());
    for (float& value : p) value = normal(random);
    for (float& value : q) value = normal(random);
    const auto softmax = [](const Row& row) {
      std::vector<long double> result;
      long double sum = 0;
      for (const float value : row) sum += std::exp(static_cast<long double>(value));
      for (const float value : row) result.push_back(std::exp(static_cast<long double>(value)) / sum);
      return result;
    };
    const auto a = softmax(p), b = softmax(q);
    long double kl = 0;
    for (std::size_t i = 0; i < a.size(); ++i) kl += a[i] * std::log(a[i] / b[i]);
    EXPECT_NEAR(kl_divergence(p, q), static_cast<double>(kl), 1e-12 * (1 + static_cast<double>(kl)));
    std::vector<double> logs(p.size());
    log_softmax(p, logs);
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(logs[i], static_cast<double>(std::log(a[i])), 1e-12 * (1 + std::abs(logs[i])));
      EXPECT_EQ(cross_entropy(p, static_cast<std::int64_t>(i)), -logs[i]);
    }
  }
}

TEST(Distribution, ShiftedLogitsAreTheSameDistribution) {
  const Row p{1, -2, 3.5f, 0}, shifted{101, 98, 103.5f, 100};
  EXPECT_EQ(kl_divergence(p, shifted), 0);
  EXPECT_NEAR(cross_entropy(p, 2), cross_entropy(shifted, 2), 1e-12);
}

}  // namespace
}  // namespace winnow
