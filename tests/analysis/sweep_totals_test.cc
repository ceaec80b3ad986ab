#include "analysis/sweep_totals.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/causal_weights.h"

namespace winnow {
namespace {

// Sums of `layers` x `heads` random heads; the weights of head h of layer l have the seed l * heads + h.
struct Swept {
  Swept(std::vector<BlockShape> shapes, std::vector<float> thresholds, std::int64_t layers,
        std::int64_t heads, std::int64_t tokens, float spread)
      : totals(shapes, thresholds, layers, heads, tokens) {
    BlockSweep sweep(shapes, thresholds, tokens / 2);
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      for (std::int64_t head = 0; head < heads; ++head) {
        const CausalWeights weights =
            random_weights_of(tokens, spread, static_cast<unsigned>(layer * heads + head));
        totals.add(layer, head, weights.all(), sweep.sweep(weights.all()));
      }
    }
  }
  SweepTotals totals;
};

// Fully causal uniform attention: every block below the diagonal has a weight of at least 1 / T, so at a
// threshold under it only the upper triangle is ever "pruned": of n x n blocks, n (n - 1) / 2.
TEST(SweepTotals, UniformAttentionPrunesTheTriangleAlone) {
  for (const std::int64_t block : {1, 4, 16}) {
    const std::int64_t tokens = 16 * block;
    const CausalWeights weights = uniform_weights(tokens);
    BlockSweep sweep({{block, block}}, {0.5f / static_cast<float>(tokens)}, tokens / 2);
    SweepTotals totals({{block, block}}, {0.5f / static_cast<float>(tokens)}, 1, 1, tokens);
    totals.add(0, 0, weights.all(), sweep.sweep(weights.all()));
    const SweepPoint point = totals.points()[0];
    EXPECT_DOUBLE_EQ(point.pruned.all, 120.0 / 256);  // 16 * 15 / 2 of 16 * 16
    EXPECT_EQ(point.pruned.causal, 0);
    EXPECT_EQ(point.density, 1);
    EXPECT_EQ(point.row_kl_mean, 0);
    EXPECT_EQ(point.minus_ln_kept, 0);
    EXPECT_EQ(point.verdict, Verdict::kSafe);
  }
}

// Of a sliding window's attention nothing can be left out when all of its weights are large, however little
// it is of the square matrix.
TEST(SweepTotals, BlocksOutsideAWindowAreNotPrunable) {
  const std::int64_t tokens = 64;
  const CausalWeights weights = random_weights_of(tokens, 0, 1, /*window=*/8);  // 1/8 each
  BlockSweep sweep({{4, 4}}, {0.1f}, tokens / 2);
  SweepTotals totals({{4, 4}}, {0.1f}, 1, 1, tokens);
  totals.add(0, 0, weights.all(), sweep.sweep(weights.all()));
  const SweepPoint point = totals.points()[0];
  EXPECT_EQ(point.pruned.causal, 0);
  EXPECT_EQ(totals.pruned(0, 0, 0).causal, 0);
  EXPECT_EQ(point.density, 1);
  EXPECT_EQ(point.density_second_half, 1);
  EXPECT_DOUBLE_EQ(point.pruned.all, 1 - (16 + 15 + 14) / 256.0);  // own block and the two before it
}

TEST(SweepTotals, MeansOverLayersHeadsAndWindows) {
  const std::int64_t tokens = 60, layers = 3, heads = 2;
  const std::vector<BlockShape> shapes{{1, 4}, {4, 8}};
  const std::vector<float> thresholds{0.01f, 0.05f};
  const Swept swept(shapes, thresholds, layers, heads, tokens, 2.5f);
  const std::vector<SweepPoint> points = swept.totals.points();
  ASSERT_EQ(points.size(), 4u);
  BlockSweep sweep(shapes, thresholds, tokens / 2);
  for (std::size_t i = 0; i < points.size(); ++i) {
    double all = 0, late = 0, max = 0;
    std::vector<double> windows(3);
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      double of_layer = 0;
      for (std::int64_t head = 0; head < heads; ++head) {
        const CausalWeights weights =
            random_weights_of(tokens, 2.5f, static_cast<unsigned>(layer * heads + head));
        const ChunkSweep& one = sweep.sweep(weights.all());
        for (std::int64_t row = 0; row < tokens; ++row) {
          const double kl = one.kl[row * 4 + i];
          ASSERT_FALSE(std::isnan(kl));
          of_layer += kl / static_cast<double>(heads * tokens);
          windows[row / 25] += kl / static_cast<double>(layers * heads * (row < 50 ? 25 : 10));
          late += row < 30 ? 0 : kl / static_cast<double>(layers * heads * 30);
          max = std::max(max, kl);
        }
      }
      EXPECT_NEAR(points[i].layers[layer].rows.kl.mean(), of_layer, 1e-12);
      all += of_layer / static_cast<double>(layers);
    }
    EXPECT_NEAR(points[i].row_kl_mean, all, 1e-12);
    EXPECT_NEAR(points[i].row_kl_second_half, late, 1e-12);
    EXPECT_EQ(points[i].row_kl_max, max);
    ASSERT_EQ(points[i].windows.size(), 3u);
    for (int w = 0; w < 3; ++w) EXPECT_NEAR(points[i].windows[w].kl.mean(), windows[w], 1e-12);
  }
}

TEST(SweepTotals, HigherThresholdsExcludeMore) {
  const std::vector<float> thresholds{0.001f, 0.01f, 0.1f, 0.5f};
  const Swept swept({{1, 4}, {16, 16}}, thresholds, 2, 2, 90, 3);
  const std::vector<SweepPoint> points = swept.totals.points();
  for (std::size_t i = 0; i + 1 < points.size(); ++i) {
    if (i == 3) continue;  // the next shape begins
    EXPECT_LE(points[i].pruned.causal, points[i + 1].pruned.causal);
    EXPECT_GE(points[i].density, points[i + 1].density);
    EXPECT_LE(points[i].pruned.causal, points[i].pruned.all);
  }
  // Small blocks leave out more at the same threshold.
  for (std::size_t i = 0; i < 4; ++i) EXPECT_LT(points[i].density, points[i + 4].density + 1e-12);
}

// Twice the same prompt changes no share and no mean.
TEST(SweepTotals, ManyPrompts) {
  const CausalWeights weights = random_weights_of(40, 1, 5);
  BlockSweep sweep({{8, 8}}, {0.3f}, 20);
  SweepTotals once({{8, 8}}, {0.3f}, 1, 1, 40), twice = once;
  once.add(0, 0, weights.all(), sweep.sweep(weights.all()));
  for (int i = 0; i < 2; ++i) twice.add(0, 0, weights.all(), sweep.sweep(weights.all()));
  const SweepPoint a = once.points()[0], b = twice.points()[0];
  EXPECT_GT(a.pruned.causal, 0);
  EXPECT_EQ(a.pruned.all, b.pruned.all);
  EXPECT_EQ(a.density_second_half, b.density_second_half);
  EXPECT_DOUBLE_EQ(a.row_kl_mean, b.row_kl_mean);
}

TEST(SweepTotals, VerdictsAndTheChoice) {
  EXPECT_EQ(verdict_of(0.049, 0), Verdict::kSafe);
  EXPECT_EQ(verdict_of(0.05, 0), Verdict::kModerate);
  EXPECT_EQ(verdict_of(0.1, 0), Verdict::kUnsafe);
  EXPECT_EQ(verdict_of(NAN, 0), Verdict::kUnsafe);
  EXPECT_EQ(verdict_of(0, 1), Verdict::kUnsafe);  // a row with nothing left
  std::vector<SweepPoint> points(5);
  for (auto& point : points) point.shape = {16, 16};
  points[3].shape = points[4].shape = {64, 64};
  points[0].verdict = Verdict::kSafe;
  points[0].threshold = 0.001f;
  points[1].verdict = Verdict::kModerate;
  points[1].threshold = 0.01f;
  points[2].threshold = 0.1f;
  const auto chosen = choose_thresholds(points);
  ASSERT_EQ(chosen.size(), 2u);
  EXPECT_EQ(chosen[0].point, 1);
  EXPECT_EQ(chosen[1].point, -1);
}

}  // namespace
}  // namespace winnow
