#include "analysis/attention_map.h"

#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/atomic_file.h"
#include "core/error.h"

namespace winnow {
namespace {

struct Colour {
  double red, green, blue;
};

// Weights span orders of magnitude: the eye needs the root, as for light.
double brightness(float weight) { return std::sqrt(std::clamp(static_cast<double>(weight), 0.0, 1.0)); }

Colour colour_of(float weight, bool visible, bool kept) {
  if (!visible) return {16, 20, 48};
  const double light = brightness(weight);
  if (kept) return {40 + 215 * light, 40 + 215 * light, 40 + 215 * light};
  return {150 + 105 * light, 30 + 90 * light, 30 + 40 * light};
}

std::string encode_png(const std::vector<std::uint8_t>& pixels, std::int64_t side, const std::string& path) {
  png_image image;
  std::memset(&image, 0, sizeof image);
  image.version = PNG_IMAGE_VERSION;
  image.width = image.height = static_cast<png_uint_32>(side);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string png(bytes, '\0');
  if (png_image_write_to_memory(&image, png.data(), &bytes, 0, pixels.data(), 0, nullptr) == 0)
    fail(ErrorCode::kIo, "{}: cannot make the picture: {}", path, image.message);
  png.resize(bytes);
  return png;
}

}  // namespace

AttentionMap::AttentionMap(std::int64_t tokens, BlockShape shape, float threshold)
    : tokens_(tokens),
      shape_(shape),
      threshold_(threshold),
      tokens_per_pixel_((tokens + kMaxPixels - 1) / kMaxPixels),
      side_((tokens + tokens_per_pixel_ - 1) / tokens_per_pixel_),
      largest_(static_cast<std::size_t>(side_ * side_)),
      kept_(largest_.size()) {}

void AttentionMap::add(const WeightChunk& chunk) {
  window_ = chunk.window;
  const std::int64_t end = chunk.first_row + chunk.rows;
  for (std::int64_t first = chunk.first_row; first < end; first += shape_.q) {
    const std::int64_t last = std::min(first + shape_.q, end);  // of the block's queries, exclusive
    for (std::int64_t key = 0; key < last; key += shape_.k) {
      float block_max = 0;
      for (std::int64_t row = first; row < last; ++row) {
        for (std::int64_t j = key; j < std::min(key + shape_.k, row + 1); ++j) {
          const float weight = chunk.weights[(row - chunk.first_row) * chunk.stride + j];
          block_max = std::max(block_max, weight);
          float& pixel = largest_[row / tokens_per_pixel_ * side_ + j / tokens_per_pixel_];
          pixel = std::max(pixel, weight);
        }
      }
      if (block_max < threshold_) continue;
      for (std::int64_t y = first / tokens_per_pixel_; y <= (last - 1) / tokens_per_pixel_; ++y) {
        const std::int64_t x_end = (std::min(key + shape_.k, last) - 1) / tokens_per_pixel_;
        for (std::int64_t x = key / tokens_per_pixel_; x <= x_end; ++x) kept_[y * side_ + x] = 1;
      }
    }
  }
}

// Whether the pixel has an element that a query sees.
bool AttentionMap::visible(std::int64_t x, std::int64_t y) const {
  const WeightChunk queries{.window = window_};
  return x <= y && (x + 1) * tokens_per_pixel_ > queries.first_key(y * tokens_per_pixel_);
}

std::vector<std::uint8_t> AttentionMap::pixels() const {
  std::vector<std::uint8_t> pixels;
  pixels.reserve(largest_.size() * 3);
  for (std::int64_t y = 0; y < side_; ++y) {
    for (std::int64_t x = 0; x < side_; ++x) {
      const std::int64_t at = y * side_ + x;
      const Colour colour = colour_of(largest_[at], visible(x, y), kept_[at] != 0);
      for (const double channel : {colour.red, colour.green, colour.blue})
        pixels.push_back(static_cast<std::uint8_t>(std::lround(channel)));
    }
  }
  return pixels;
}

void AttentionMap::write_png(const std::string& path) const {
  write_file_atomically(path, encode_png(pixels(), side_, path));
}

}  // namespace winnow
