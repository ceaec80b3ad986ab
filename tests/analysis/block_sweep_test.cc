#include "analysis/block_sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "analysis/causal_weights.h"

namespace winnow {
namespace {

// One shape and threshold by the definitions, in double.
struct Oracle {
  std::vector<double> kl, minus_ln_kept;  // [tokens]
  std::int64_t blocks = 0, excluded = 0, elements = 0, kept_elements = 0, kept_second_half = 0;
};

Oracle oracle(const CausalWeights& weights, BlockShape shape, float threshold) {
  const std::int64_t tokens = weights.tokens;
  Oracle result;
  for (std::int64_t begin = 0; begin < tokens; begin += shape.q) {
    const std::int64_t end = std::min(begin + shape.q, tokens);
    std::vector<bool> kept(static_cast<std::size_t>(tokens));
    for (std::int64_t key = 0; key < end; key += shape.k) {
      float max = 0;
      std::int64_t elements = 0, late = 0;
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t first = std::max(key, weights.all().first_key(row));
        for (std::int64_t j = first; j < std::min(key + shape.k, row + 1); ++j) {
          max = std::max(max, weights.at(row, j));
          ++elements;
          late += row >= tokens / 2 ? 1 : 0;
        }
      }
      if (elements == 0) continue;  // outside the window
      ++result.blocks;
      result.elements += elements;
      if (max < threshold) {
        ++result.excluded;
        continue;
      }
      result.kept_elements += elements;
      result.kept_second_half += late;
      for (std::int64_t j = key; j < std::min(key + shape.k, tokens); ++j) kept[j] = true;
    }
    for (std::int64_t row = begin; row < end; ++row) {
      double mass = 0, kl = 0;
      for (std::int64_t j = 0; j < tokens; ++j) mass += kept[j] ? weights.at(row, j) : 0;
      for (std::int64_t j = 0; j < tokens; ++j) {
        const double p = std::max<double>(weights.at(row, j), 1e-12);
        const double q = std::max(kept[j] ? weights.at(row, j) / mass : 0, 1e-12);
        kl += p * (std::log(p) - std::log(q));
      }
      result.kl.push_back(mass > 0 ? std::max(kl, 0.0) : NAN);
      result.minus_ln_kept.push_back(mass > 0 ? -std::log(mass) : NAN);
    }
  }
  return result;
}

std::int64_t upto(const std::vector<std::int64_t>& bins, std::size_t threshold) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i <= threshold; ++i) sum += bins[i];
  return sum;
}

const std::vector<float> kThresholds{0.0005f, 0.005f, 0.02f, 0.1f, 0.3f, 0.8f};

class BlockSweepByWindow : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Windows, BlockSweepByWindow, testing::Values(0, 1, 11, 40, 200));

TEST_P(BlockSweepByWindow, EveryShapeAndThresholdAgainstTheDefinition) {
  const std::vector<BlockShape> shapes{{1, 4}, {1, 7}, {2, 3}, {4, 16}, {16, 16}, {8, 6}, {16, 1}, {32, 64}};
  unsigned seed = 0;
  for (const std::int64_t tokens : {1, 2, 15, 48, 97}) {
    for (const float spread : {0.3f, 2.0f, 6.0f}) {
      const CausalWeights weights = random_weights_of(tokens, spread, ++seed, GetParam());
      BlockSweep sweep(shapes, kThresholds, tokens / 2);
      const ChunkSweep& result = sweep.sweep(weights.all());
      for (std::size_t s = 0; s < shapes.size(); ++s) {
        for (std::size_t t = 0; t < kThresholds.size(); ++t) {
          const Oracle expected = oracle(weights, shapes[s], kThresholds[t]);
          const BlockCounts& counts = result.counts[s];
          EXPECT_EQ(upto(counts.blocks, t), expected.excluded);
          EXPECT_EQ(upto(counts.blocks, kThresholds.size()), expected.blocks);
          EXPECT_EQ(upto(counts.elements, kThresholds.size()), expected.elements);
          EXPECT_EQ(expected.elements - upto(counts.elements, t), expected.kept_elements);
          EXPECT_EQ(
              upto(counts.elements_second_half, kThresholds.size()) - upto(counts.elements_second_half, t),
              expected.kept_second_half);
          for (std::int64_t row = 0; row < tokens; ++row) {
            const std::size_t at = (row * shapes.size() + s) * kThresholds.size() + t;
            ASSERT_EQ(std::isnan(result.kl[at]), std::isnan(expected.kl[row]));
            if (std::isnan(expected.kl[row])) continue;
            // Weights are float32 and sum to 1 within 1e-6; a loss is at most 27.6 times its weight.
            EXPECT_NEAR(result.kl[at], expected.kl[row], 2e-5 + 1e-5 * expected.kl[row]);
            EXPECT_NEAR(result.minus_ln_kept[at], expected.minus_ln_kept[row],
                        2e-6 * (1 + expected.minus_ln_kept[row]));
          }
        }
      }
    }
  }
}

// Chunks of the prefill are an accident of memory: results do not depend on them.
TEST(BlockSweep, ChunksGiveWhatTheWholeGives) {
  const CausalWeights weights = random_weights_of(70, 3, 9);
  BlockSweep whole({{1, 4}, {16, 16}, {8, 64}}, kThresholds, 35), parts = whole;
  const ChunkSweep& expected = whole.sweep(weights.all());
  std::vector<double> kl;
  std::vector<BlockCounts> counts(3);
  for (std::int64_t first = 0; first < 70; first += 32) {
    const ChunkSweep& part = parts.sweep(weights.chunk(first, std::min<std::int64_t>(32, 70 - first)));
    kl.insert(kl.end(), part.kl.begin(), part.kl.end());
    for (std::size_t i = 0; i < 3; ++i) counts[i].add(part.counts[i]);
  }
  ASSERT_EQ(kl.size(), expected.kl.size());
  for (std::size_t i = 0; i < kl.size(); ++i) {
    if (std::isnan(kl[i])) {
      EXPECT_TRUE(std::isnan(expected.kl[i]));
    } else {
      EXPECT_EQ(kl[i], expected.kl[i]);
    }
  }
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(counts[i].blocks, expected.counts[i].blocks);
    EXPECT_EQ(counts[i].elements_second_half, expected.counts[i].elements_second_half);
  }
}

// p = (.6, .3, .06, .04), blocks of 2 keys, threshold .1: the second block goes, .9 is left.
TEST(BlockSweep, HandComputedRow) {
  CausalWeights weights = uniform_weights(4);
  const float row[] = {0.6f, 0.3f, 0.06f, 0.04f};
  std::copy(row, row + 4, weights.weights.begin() + 12);
  BlockSweep sweep({{1, 2}}, {0.1f}, 2);
  const ChunkSweep& result = sweep.sweep(weights.all());
  EXPECT_NEAR(result.minus_ln_kept[3], -std::log(0.9), 1e-6);
  const double excluded = 0.06 * std::log(0.06 / 1e-12) + 0.04 * std::log(0.04 / 1e-12);
  EXPECT_NEAR(result.kl[3], 0.9 * std::log(0.9) + excluded, 1e-5);
  EXPECT_EQ(result.kl[0], 0);
}

// A published analysis reached a KL of 38 at threshold .1 because it renormalised each kept block by itself:
// every block is then a distribution of its own and q sums to the number of blocks. The row's KL here is far
// from that number.
TEST(BlockSweep, RenormalisesTheRowNotTheBlocks) {
  CausalWeights weights = uniform_weights(8);
  const float row[] = {0.2f, 0.1f, 0.15f, 0.15f, 0.25f, 0.09f, 0.03f, 0.03f};
  std::copy(row, row + 8, weights.weights.begin() + 56);
  BlockSweep sweep({{1, 2}}, {0.1f}, 4);
  const double kl = sweep.sweep(weights.all()).kl[7];
  double whole_row = 0, per_block = 0;
  for (int j = 0; j < 8; ++j) {
    const double p = row[j], block = row[j / 2 * 2] + row[j / 2 * 2 + 1];
    whole_row += p * std::log(p / (j < 6 ? p / 0.94 : 1e-12));
    per_block += p * std::log(p / (j < 6 ? p / block : 1e-12));
  }
  EXPECT_NEAR(kl, whole_row, 1e-5);
  EXPECT_GT(std::abs(per_block - whole_row), 0.5);
  EXPECT_GT(std::abs(kl - per_block), 0.5);
}

// A row whose share of every kept block is zero has nothing left, and is not a divergence.
TEST(BlockSweep, RowsWithNothingLeft) {
  CausalWeights weights = uniform_weights(32);
  BlockSweep sweep({{1, 4}, {16, 16}}, {0.25f}, 16);
  const ChunkSweep& result = sweep.sweep(weights.all());
  for (std::int64_t row = 0; row < 32; ++row) {
    EXPECT_EQ(std::isnan(result.kl[row * 2]), row >= 4) << row;       // 1 / (row + 1) < .25
    EXPECT_EQ(std::isnan(result.kl[row * 2 + 1]), row >= 16) << row;  // its blocks have nobody else's weights
    EXPECT_EQ(std::isnan(result.minus_ln_kept[row * 2]), row >= 4) << row;
  }
}

}  // namespace
}  // namespace winnow
