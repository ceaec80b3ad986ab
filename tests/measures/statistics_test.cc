#include "measures/statistics.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace winnow {
namespace {

TEST(RunningMean, HandComputed) {
  RunningMean mean;
  EXPECT_EQ(mean.mean(), 0);
  for (const double value : {2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0}) mean.add(value);
  EXPECT_EQ(mean.count(), 8);
  EXPECT_DOUBLE_EQ(mean.mean(), 5);
  EXPECT_DOUBLE_EQ(mean.variance(), 32.0 / 7);
  EXPECT_EQ(mean.min(), 2);
  EXPECT_EQ(mean.max(), 9);
}

TEST(RunningMean, MergedIsTheSameAsAddedInTurn) {
  std::mt19937 random(3);
  std::normal_distribution<double> normal(1e6, 1);  // a naive sum of squares loses the variance here
  for (const int split : {0, 1, 40, 99, 100}) {
    RunningMean whole, first, second;
    for (int i = 0; i < 100; ++i) {
      const double value = normal(random);
      whole.add(value);
      (i < split ? first : second).add(value);
    }
    first.merge(second);
    EXPECT_EQ(first.count(), 100);
    EXPECT_NEAR(first.mean(), whole.mean(), 1e-8);
    EXPECT_NEAR(first.variance(), whole.variance(), 1e-8);
    EXPECT_EQ(first.min(), whole.min());
    EXPECT_EQ(first.max(), whole.max());
  }
}

TEST(Percentile, LinearBetweenNeighbours) {
  const std::vector<double> values{40, 10, 30, 20};
  EXPECT_EQ(percentile(values, 0), 10);
  EXPECT_EQ(percentile(values, 1), 40);
  EXPECT_EQ(percentile(values, 0.5), 25);
  EXPECT_NEAR(percentile(values, 0.9), 37, 1e-12);
  EXPECT_EQ(percentile(std::vector<double>{7}, 0.3), 7);
}

// Of n draws of variance 1 the mean's standard error is 1 / sqrt(n).
TEST(Bootstrap, CoversTheNormalInterval) {
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal(0, 1);
  std::vector<double> values(400);
  for (double& value : values) value = normal(random);
  const Interval interval = bootstrap_mean95(values).value();
  const double centre = mean(values), half = 1.96 / 20;
  EXPECT_NEAR(interval.low, centre - half, 0.02);
  EXPECT_NEAR(interval.high, centre + half, 0.02);
}

TEST(Bootstrap, TheSameSeedTheSameInterval) {
  const std::vector<double> values{1, 2, 3, 4, 10};
  const Interval a = bootstrap_mean95(values, 9).value(), b = bootstrap_mean95(values, 9).value(),
                 c = bootstrap_mean95(values, 10, 50).value();
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_NE(a.high, c.high);
  EXPECT_LT(a.low, mean(values));
  EXPECT_GT(a.high, mean(values));
}

TEST(Bootstrap, NothingOfTooFew) {
  EXPECT_FALSE(bootstrap_mean95({}));
  EXPECT_FALSE(bootstrap_mean95(std::vector<double>{1, 2, 3, 4}));
  EXPECT_TRUE(bootstrap_mean95(std::vector<double>{1, 2, 3, 4, 5}));
}

}  // namespace
}  // namespace winnow
