// AttentionMap: a picture of one head's attention, queries downwards and keys to the right: the brighter, the
// larger the weight; blocks that a threshold excludes are tinted, what causality or a window hides is dark
// blue.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/block_sweep.h"

namespace winnow {

class AttentionMap {
 public:
  static constexpr std::int64_t kMaxPixels = 1024;  // each way

  AttentionMap(std::int64_t tokens, BlockShape shape, float threshold);

  // Chunks of one head in any order, each row once.
  void add(const WeightChunk& chunk);

  std::int64_t side() const { return side_; }  // pixels each way
  std::int64_t tokens_per_pixel() const { return tokens_per_pixel_; }
  // [side, side, 3] red, green, blue. A pixel shows the largest of its weights, and as excluded when all of
  // its causal blocks are.
  std::vector<std::uint8_t> pixels() const;
  // As PNG, atomically; Error(kIo).
  void write_png(const std::string& path) const;

 private:
  bool visible(std::int64_t x, std::int64_t y) const;

  std::int64_t tokens_;
  BlockShape shape_;
  float threshold_;
  std::int64_t window_ = 0;  // of the chunks
  std::int64_t tokens_per_pixel_, side_;
  std::vector<float> largest_;      // [side, side]
  std::vector<std::uint8_t> kept_;  // [side, side] a block that is computed reaches into the pixel
};

}  // namespace winnow
