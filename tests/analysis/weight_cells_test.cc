#include "analysis/weight_cells.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/causal_weights.h"

namespace winnow {
namespace {

TEST(ExclusionLoss, AgainstTheLogarithm) {
  for (double p = 2e-12; p <= 1; p *= 1.013) {
    const auto weight = static_cast<float>(p);
    const double expected = weight * (std::log(static_cast<double>(weight)) - std::log(1e-12));
    // ln within 2 ulp, and of two numbers up to 28 a difference: near 1e-12 little of it is left.
    EXPECT_NEAR(exclusion_loss(weight), expected, weight * 28 * 2.5e-7) << weight;
  }
}

TEST(ExclusionLoss, NothingForWhatTheClampHides) {
  for (const float weight : {0.0f, 1e-13f, 1e-30f}) EXPECT_NEAR(exclusion_loss(weight), 0, 1e-17);
}

TEST(WeightCells, HandComputed) {
  const std::vector<float> weights{
      0.5f, 0.25f, 0.125f, 0.0625f, 0.0625f, 9.f,  // the last column does not count
      0.0f, 1.0f,  0.0f,   0.0f,    0.0f,    9.f};
  WeightCells cells;
  sum_cells(weights.data(), 2, 6, 5, 2, cells);
  EXPECT_EQ(cells.cells, 3);
  EXPECT_EQ(cells.max, (std::vector<float>{0.5f, 0.125f, 0.0625f, 1, 0, 0}));
  EXPECT_EQ(cells.mass, (std::vector<float>{0.75f, 0.1875f, 0.0625f, 1, 0, 0}));
  EXPECT_FLOAT_EQ(cells.loss[0], exclusion_loss(0.5f) + exclusion_loss(0.25f));
  EXPECT_FLOAT_EQ(cells.loss[3], static_cast<float>(-std::log(1e-12)));
}

TEST(WeightCells, CoarseCellsAreThoseOfTheWeights) {
  for (const std::int64_t tokens : {1, 7, 33, 64}) {
    const CausalWeights weights = random_weights_of(tokens, 2, 1);
    for (const std::int64_t width : {6, 12, 100}) {
      WeightCells fine, coarse, direct;
      sum_cells(weights.weights.data(), tokens, tokens, tokens, width % 100 == 0 ? 4 : 3, fine);
      sum_cells(fine, width, coarse);
      sum_cells(weights.weights.data(), tokens, tokens, tokens, width, direct);
      ASSERT_EQ(coarse.cells, direct.cells);
      EXPECT_EQ(coarse.width, width);
      EXPECT_EQ(coarse.max, direct.max);
      for (std::size_t i = 0; i < direct.mass.size(); ++i) {
        EXPECT_NEAR(coarse.mass[i], direct.mass[i], 1e-6);
        EXPECT_NEAR(coarse.loss[i], direct.loss[i], 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace winnow
