#include "analysis/weight_shares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "analysis/causal_weights.h"

namespace winnow {
namespace {

// Row i of uniform attention has i + 1 weights of 1 / (i + 1): those under .1 are rows 10 and on, wholly.
TEST(WeightShares, UniformAttention) {
  const CausalWeights weights = uniform_weights(20);
  WeightShares shares({0.1f}, 1, 1, 20);
  shares.add(0, 0, weights.all());
  const Share share = shares.layer(0, 0);
  EXPECT_DOUBLE_EQ(share.causal.mean(), 0.5);
  EXPECT_EQ(share.causal.min(), 0);
  EXPECT_EQ(share.causal.max(), 1);
  double all = 0;  // rows 0..9 have 20 - (i + 1) zeros, the others nothing above .1
  for (int i = 0; i < 20; ++i) all += (i < 10 ? (19.0 - i) / 20 : 1.0) / 20;
  EXPECT_NEAR(share.all.mean(), all, 1e-12);
  EXPECT_EQ(shares.positions(0, 0, 9, 1).causal.mean(), 0);
  EXPECT_EQ(shares.positions(0, 0, 10, 10).causal.mean(), 1);
  EXPECT_EQ(shares.positions(0, 0, 5, 10).causal.mean(), 0.5);
  const WeightRange& range = shares.range(0);
  EXPECT_EQ(range.rows, 20);
  EXPECT_EQ(range.max, 1);
  EXPECT_FLOAT_EQ(range.min, 0.05f);
  EXPECT_LT(range.row_sum_error, 1e-6);
  EXPECT_TRUE(range.sound());
}

TEST(WeightShares, CountsOfRandomHeadsByLayerAndPosition) {
  const std::vector<float> thresholds{0.001f, 0.05f, 0.3f};
  WeightShares shares(thresholds, 2, 2, 37);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (std::int64_t head = 0; head < 2; ++head) {
      const CausalWeights weights = random_weights_of(37, 2, static_cast<unsigned>(layer * 2 + head));
      shares.add(layer, head, weights.chunk(0, 16));
      shares.add(layer, head, weights.chunk(16, 21));
    }
  }
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (std::size_t t = 0; t < thresholds.size(); ++t) {
      double expected = 0, at_30 = 0;
      for (std::int64_t head = 0; head < 2; ++head) {
        const CausalWeights weights = random_weights_of(37, 2, static_cast<unsigned>(layer * 2 + head));
        for (std::int64_t row = 0; row < 37; ++row) {
          int below = 0;
          for (std::int64_t key = 0; key <= row; ++key) below += weights.at(row, key) < thresholds[t] ? 1 : 0;
          expected += static_cast<double>(below) / static_cast<double>(row + 1) / 74;
          if (row == 30) at_30 += below / 31.0 / 2;
        }
      }
      EXPECT_NEAR(shares.layer(layer, t).causal.mean(), expected, 1e-12);
      EXPECT_NEAR(shares.positions(layer, t, 30, 1).causal.mean(), at_30, 1e-12);
    }
  }
}

// Keys outside a window are no weights below a threshold: they are not there.
TEST(WeightShares, OfAWindowOnlyWhatIsInIt) {
  const CausalWeights weights = random_weights_of(30, 2, 3, /*window=*/8);
  WeightShares shares({0.1f}, 1, 1, 30);
  const WeightRange range = shares.add(0, 0, weights.all());
  EXPECT_GT(range.min, 0);
  EXPECT_TRUE(range.sound());
  double causal = 0, all = 0;
  for (std::int64_t row = 0; row < 30; ++row) {
    int reaching = 0;
    for (std::int64_t key = 0; key <= row; ++key) reaching += weights.at(row, key) >= 0.1f ? 1 : 0;
    causal += 1 - reaching / static_cast<double>(std::min<std::int64_t>(8, row + 1));
    all += 1 - reaching / 30.0;
  }
  EXPECT_NEAR(shares.layer(0, 0).causal.mean(), causal / 30, 1e-12);
  EXPECT_NEAR(shares.layer(0, 0).all.mean(), all / 30, 1e-12);
}

TEST(WeightShares, BrokenWeightsAreNotSound) {
  const auto range_with = [](std::int64_t key, float weight) {
    CausalWeights weights = uniform_weights(40);
    weights.weights[39 * 40 + key] = weight;
    WeightShares shares({0.05f}, 1, 1, 40);
    return shares.add(0, 0, weights.all());
  };
  EXPECT_TRUE(range_with(5, 1.0f / 40).sound());
  for (const std::int64_t key : {5, 38}) {  // in the vectorised part, and behind it
    EXPECT_FALSE(range_with(key, NAN).finite);
    EXPECT_FALSE(range_with(key, INFINITY).finite);
    EXPECT_FALSE(range_with(key, NAN).sound());
    EXPECT_FALSE(range_with(key, -0.01f).sound());
    EXPECT_FALSE(range_with(key, 0.1f).sound());  // the row's sum
    EXPECT_NEAR(range_with(key, 0.1f).row_sum_error, 0.075, 1e-6);
  }
}

}  // namespace
}  // namespace winnow
