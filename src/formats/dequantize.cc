#include "formats/dequantize.h"

#include <bit>
#include <cstdint>
#include <cstring>

#include "core/check.h"
#include "formats/k_quants.h"

namespace winnow {
namespace {

template <class T>
T load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

std::uint16_t load_u16(const std::byte* data) { return load<std::uint16_t>(data); }

// half_to_float without branches, so that loops over it vectorise.
float half_to_float_select(std::uint16_t half) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
  const std::uint32_t exponent = magnitude & 0x0f800000u;
  const std::uint32_t rebias = exponent == 0x0f800000u ? 224u << 23 : 112u << 23;  // infinity and NaN: to 255
  // A subnormal half has no leading 1: give it one, and take it away again as a float.
  const float subnormal = std::bit_cast<float>(magnitude + (113u << 23)) - 0x1p-14f;
  const float normal = std::bit_cast<float>(magnitude + rebias);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(exponent == 0 ? subnormal : normal);
  return std::bit_cast<float>(bits | (static_cast<std::uint32_t>(half & 0x8000u) << 16));
}

void dequantize_f16(const std::byte* in, float* __restrict out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = half_to_float_select(load_u16(in + 2 * i));
}

void dequantize_bf16(const std::byte* in, float* __restrict out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = to_float(BF16{load_u16(in + 2 * i)});
}

void dequantize_q4_0(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 18, out += 32) {
    const float scale = half_to_float(load_u16(in));
    const auto* q = reinterpret_cast<const std::uint8_t*>(in + 2);
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>((q[i] & 0x0f) - 8);
      out[i + 16] = scale * static_cast<float>((q[i] >> 4) - 8);
    }
  }
}

void dequantize_q4_1(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 20, out += 32) {
    const float scale = half_to_float(load_u16(in));
    const float minimum = half_to_float(load_u16(in + 2));
    const auto* q = reinterpret_cast<const std::uint8_t*>(in + 4);
    // The product has at most 15 significant bits, so it is exact and a fused multiply-add changes nothing.
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(q[i] & 0x0f) + minimum;
      out[i + 16] = scale * static_cast<float>(q[i] >> 4) + minimum;
    }
  }
}

// Bit i of `high` is the fifth bit of element i.
int five_bits(int low, std::uint32_t high, int i) { return low | static_cast<int>((high >> i & 1u) << 4); }

void dequantize_q5_0(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 22, out += 32) {
    const float scale = half_to_float(load_u16(in));
    const auto high = load<std::uint32_t>(in + 2);
    const auto* q = reinterpret_cast<const std::uint8_t*>(in + 6);
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(five_bits(q[i] & 0x0f, high, i) - 16);
      out[i + 16] = scale * static_cast<float>(five_bits(q[i] >> 4, high, i + 16) - 16);
    }
  }
}

void dequantize_q5_1(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 24, out += 32) {
    const float scale = half_to_float(load_u16(in));
    const float minimum = half_to_float(load_u16(in + 2));
    const auto high = load<std::uint32_t>(in + 4);
    const auto* q = reinterpret_cast<const std::uint8_t*>(in + 8);
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(five_bits(q[i] & 0x0f, high, i)) + minimum;
      out[i + 16] = scale * static_cast<float>(five_bits(q[i] >> 4, high, i + 16)) + minimum;
    }
  }
}

// The 16 values of IQ4_NL, denser around zero.
constexpr float kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void dequantize_iq4_nl(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 18, out += 32) {
    const float scale = half_to_float(load_u16(in));
    const auto* q = reinterpret_cast<const std::uint8_t*>(in + 2);
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * kNonLinear[q[i] & 0x0f];
      out[i + 16] = scale * kNonLinear[q[i] >> 4];
    }
  }
}

void dequantize_q8_0(const std::byte* in, float* __restrict out, std::size_t blocks) {
  for (std::size_t block = 0; block < blocks; ++block, in += 34, out += 32) {
    const float scale = half_to_float(load_u16(in));
    const auto* q = reinterpret_cast<const std::int8_t*>(in + 2);
    for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(q[i]);
  }
}

}  // namespace

void dequantize(DType dtype, std::span<const std::byte> data, std::span<float> out) {
  const auto elements = static_cast<std::int64_t>(out.size());
  const DTypeInfo info = dtype_info(dtype);
  check(elements % info.block_elements == 0, "dequantize: a whole number of blocks");
  check(static_cast<std::int64_t>(data.size()) == dtype_bytes(dtype, elements),
        "dequantize: data and out agree");
  if (out.empty()) return;
  const auto blocks = static_cast<std::size_t>(elements / info.block_elements);
  switch (dtype) {
    case DType::kF32: std::memcpy(out.data(), data.data(), data.size()); break;
    case DType::kF16: dequantize_f16(data.data(), out.data(), blocks); break;
    case DType::kBF16: dequantize_bf16(data.data(), out.data(), blocks); break;
    case DType::kQ4_0: dequantize_q4_0(data.data(), out.data(), blocks); break;
    case DType::kQ4_1: dequantize_q4_1(data.data(), out.data(), blocks); break;
    case DType::kQ5_0: dequantize_q5_0(data.data(), out.data(), blocks); break;
    case DType::kQ5_1: dequantize_q5_1(data.data(), out.data(), blocks); break;
    case DType::kQ8_0: dequantize_q8_0(data.data(), out.data(), blocks); break;
    case DType::kIQ4_NL: dequantize_iq4_nl(data.data(), out.data(), blocks); break;
    case DType::kQ2_K: dequantize_q2_k(data.data(), out.data(), blocks); break;
    case DType::kQ3_K: dequantize_q3_k(data.data(), out.data(), blocks); break;
    case DType::kQ4_K: dequantize_q4_k(data.data(), out.data(), blocks); break;
    case DType::kQ5_K: dequantize_q5_k(data.data(), out.data(), blocks); break;
    case DType::kQ6_K: dequantize_q6_k(data.data(), out.data(), blocks); break;
    case DType::kQ8_K: dequantize_q8_k(data.data(), out.data(), blocks); break;
  }
}

}  // namespace winnow
