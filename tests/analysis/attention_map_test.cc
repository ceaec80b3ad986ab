#include "analysis/attention_map.h"

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "analysis/causal_weights.h"

namespace winnow {
namespace {

using Colour = std::array<int, 3>;

Colour at(const AttentionMap& map, std::int64_t y, std::int64_t x) {
  const std::vector<std::uint8_t> pixels = map.pixels();
  const std::int64_t i = (y * map.side() + x) * 3;
  return {pixels[i], pixels[i + 1], pixels[i + 2]};
}
bool grey(const Colour& colour) { return colour[0] == colour[1] && colour[1] == colour[2]; }

// Row 5: .5 on key 5, .1 on the others.
TEST(AttentionMap, ExcludedBlocksAreTinted) {
  CausalWeights weights = uniform_weights(6);
  for (int key = 0; key < 6; ++key) weights.weights[30 + key] = key == 5 ? 0.5f : 0.1f;
  AttentionMap map(6, {1, 2}, 0.2f);
  map.add(weights.chunk(0, 4));
  map.add(weights.chunk(4, 2));
  EXPECT_EQ(map.side(), 6);
  EXPECT_EQ(at(map, 0, 1), (Colour{16, 20, 48}));  // hidden by causality
  EXPECT_TRUE(grey(at(map, 0, 0)));
  EXPECT_TRUE(grey(at(map, 4, 0)));  // .2: not under the threshold
  EXPECT_TRUE(grey(at(map, 5, 5)));
  EXPECT_TRUE(grey(at(map, 5, 4)));  // small, but in the kept block
  for (int key = 0; key < 4; ++key) EXPECT_FALSE(grey(at(map, 5, key)));
  EXPECT_GT(at(map, 0, 0)[0], at(map, 5, 5)[0]);  // a weight of 1 is brighter than one of .5
}

TEST(AttentionMap, WhatAWindowHidesIsNotExcluded) {
  AttentionMap map(12, {2, 2}, 0.01f);
  map.add(random_weights_of(12, 1, 4, /*window=*/3).all());
  EXPECT_EQ(at(map, 11, 8), (Colour{16, 20, 48}));
  EXPECT_TRUE(grey(at(map, 11, 9)));
  EXPECT_TRUE(grey(at(map, 1, 0)));
}

TEST(AttentionMap, LongPromptsAreSmallPictures) {
  const CausalWeights weights = uniform_weights(1100);
  AttentionMap map(1100, {16, 16}, 1e-6f);
  map.add(weights.all());
  EXPECT_EQ(map.tokens_per_pixel(), 2);
  EXPECT_EQ(map.side(), 550);
  const std::string path = (std::filesystem::temp_directory_path() / "winnow-map-test.png").string();
  map.write_png(path);
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(content.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(content.substr(16, 8), std::string("\0\0\x02\x26\0\0\x02\x26", 8));  // width and height
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace winnow
