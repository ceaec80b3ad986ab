#include "formats/k_quants.h"

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace winnow {
namespace {

constexpr int kBlock = 256;

float load_half(const std::byte* data) {
  std::uint16_t half;
  std::memcpy(&half, data, sizeof half);
  return half_to_float(half);
}

const std::uint8_t* bytes_at(const std::byte* data) { return reinterpret_cast<const std::uint8_t*>(data); }

// Scale and minimum of a sub-block of 32 in Q4_K and Q5_K: 6 bits each. Those of sub-blocks 0..3 are the low
// bits of bytes 0..3 and 4..7; those of 4..7 have their low 4 bits in bytes 8..11 and the high 2 in the high
// bits of bytes 0..3 and 4..7.
struct ScaleAndMinimum {
  float scale, minimum;
};
ScaleAndMinimum unpack_scale(const std::uint8_t* packed, int j) {
  if (j < 4) return {static_cast<float>(packed[j] & 0x3f), static_cast<float>(packed[j + 4] & 0x3f)};
  return {static_cast<float>((packed[j + 4] & 0x0f) | (packed[j - 4] >> 2 & 0x30)),
          static_cast<float>(packed[j + 4] >> 4 | (packed[j] >> 2 & 0x30))};
}

// Scale of a sub-block of 16 in Q3_K, signed: the low 4 bits in the nibbles of bytes 0..7, the high 2 in
// bytes 8..11.
int unpack_q3_scale(const std::uint8_t* packed, int j) {
  const int low = packed[j % 8] >> (j < 8 ? 0 : 4) & 0x0f;
  const int high = packed[8 + j % 4] >> 2 * (j / 4) & 0x03;
  return (low | high << 4) - 32;
}

}  // namespace

void dequantize_q2_k(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 84, out += kBlock) {
    const std::uint8_t *scales = bytes_at(in), *q = bytes_at(in + 16);
    const float d = load_half(in + 80), m = load_half(in + 82);
    for (int j = 0; j < 16; ++j) {  // sub-blocks of 16: 8 of them share 32 bytes, 2 bits each
      const std::uint8_t* bytes = q + 32 * (j / 8) + 16 * (j % 2);
      const int shift = 2 * (j / 2 % 4);
      const float scale = d * static_cast<float>(scales[j] & 0x0f);
      const float minimum = m * static_cast<float>(scales[j] >> 4);
      for (int i = 0; i < 16; ++i) {
        out[16 * j + i] = scale * static_cast<float>(bytes[i] >> shift & 3) - minimum;
      }
    }
  }
}

void dequantize_q3_k(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 110, out += kBlock) {
    const std::uint8_t *high = bytes_at(in), *low = bytes_at(in + 32), *scales = bytes_at(in + 96);
    const float d = load_half(in + 108);
    for (int j = 0; j < 16; ++j) {
      const std::uint8_t* bytes = low + 32 * (j / 8) + 16 * (j % 2);
      const int shift = 2 * (j / 2 % 4);
      const float scale = d * static_cast<float>(unpack_q3_scale(scales, j));
      for (int i = 0; i < 16; ++i) {
        const int third = high[16 * (j % 2) + i] >> j / 2 & 1;
        out[16 * j + i] = scale * static_cast<float>((bytes[i] >> shift & 3) + 4 * third - 4);
      }
    }
  }
}

void dequantize_q4_k(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 144, out += kBlock) {
    const float d = load_half(in), m = load_half(in + 2);
    for (int j = 0; j < 8; ++j) {
      const auto [s, o] = unpack_scale(bytes_at(in + 4), j);
      const float scale = d * s, minimum = m * o;
      const std::uint8_t* bytes = bytes_at(in + 16) + 32 * (j / 2);
      const int shift = 4 * (j % 2);
      for (int i = 0; i < 32; ++i) {
        out[32 * j + i] = scale * static_cast<float>(bytes[i] >> shift & 0x0f) - minimum;
      }
    }
  }
}

void dequantize_q5_k(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 176, out += kBlock) {
    const float d = load_half(in), m = load_half(in + 2);
    const std::uint8_t* high = bytes_at(in + 16);
    for (int j = 0; j < 8; ++j) {
      const auto [s, o] = unpack_scale(bytes_at(in + 4), j);
      const float scale = d * s, minimum = m * o;
      const std::uint8_t* bytes = bytes_at(in + 48) + 32 * (j / 2);
      const int shift = 4 * (j % 2);
      for (int i = 0; i < 32; ++i) {
        const int q = (bytes[i] >> shift & 0x0f) | (high[i] >> j & 1) << 4;
        out[32 * j + i] = scale * static_cast<float>(q) - minimum;
      }
    }
  }
}

void dequantize_q6_k(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 210, out += kBlock) {
    const float d = load_half(in + 208);
    const auto* scales = reinterpret_cast<const std::int8_t*>(in + 192);
    for (int j = 0; j < 8; ++j) {  // runs of 32; a half of the block shares 64 bytes of nibbles
      const std::uint8_t* low = bytes_at(in) + 64 * (j / 4) + 32 * (j % 2);
      const std::uint8_t* high = bytes_at(in + 128) + 32 * (j / 4);
      const int low_shift = 4 * (j / 2 % 2), high_shift = 2 * (j % 4);
      for (int i = 0; i < 32; ++i) {
        const int q = (low[i] >> low_shift & 0x0f) | (high[i] >> high_shift & 3) << 4;
        const int group = 2 * j + i / 16;
        out[32 * j + i] = d * static_cast<float>(scales[group]) * static_cast<float>(q - 32);
      }
    }
  }
}

void dequantize_q8_k(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 292, out += kBlock) {
    float d;
    std::memcpy(&d, in, sizeof d);
    const auto* q = reinterpret_cast<const std::int8_t*>(in + 4);
    for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(q[i]);
  }
}

}  // namespace winnow
