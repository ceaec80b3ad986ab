#include "formats/dequantize.h"

#include <bit>
#include <cstdint>
#include <cstring>

#include "core/check.h"

namespace winnow {
namespace {

std::uint16_t load_u16(const std::byte* data) {
  std::uint16_t value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

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
    case DType::kQ8_0: dequantize_q8_0(data.data(), out.data(), blocks); break;
  }
}

}  // namespace winnow
