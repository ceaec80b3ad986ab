#include "backends/cpu/stored_blocks.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace winnow::cpu {
namespace {

constexpr int kMostColumns = 256;

// One block of one row: integers as the kind counts them (never negative), and its scales, bits as stored.
struct RowBlock {
  std::uint8_t q[kMostColumns];
  std::uint16_t d = 0, m = 0;
  std::uint8_t scales[16] = {}, minimums[8] = {};
};

std::uint16_t half_at(const std::uint8_t* bytes) {
  std::uint16_t half;
  std::memcpy(&half, bytes, sizeof half);
  return half;
}

void read_nibbles(const std::uint8_t* in, RowBlock& block) {
  for (int i = 0; i < 16; ++i) {
    block.q[i] = in[i] & 0x0f;
    block.q[i + 16] = in[i] >> 4;
  }
}

// The fifth bits of Q5_0 and Q5_1, then `offset` for the kind's own.
void add_fifth_bits(const std::uint8_t* in, int offset, RowBlock& block) {
  std::uint32_t high;
  std::memcpy(&high, in, sizeof high);
  for (int i = 0; i < 32; ++i) {
    block.q[i] = static_cast<std::uint8_t>(block.q[i] + ((high >> i & 1u) << 4) + offset);
  }
}

void read_iq4_nl(const std::uint8_t* in, RowBlock& block) {
  constexpr int kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  read_nibbles(in + 2, block);
  for (int i = 0; i < 32; ++i) block.q[i] = static_cast<std::uint8_t>(kValues[block.q[i]] + 128);
}

// formats/k_quants.h says how scales and minimums of 6 bits lie in 12 bytes.
void read_q4_k(const std::uint8_t* in, RowBlock& block) {
  block.d = half_at(in);
  block.m = half_at(in + 2);
  const std::uint8_t *packed = in + 4, *nibbles = in + 16;
  for (int j = 0; j < 8; ++j) {
    if (j < 4) {
      block.scales[j] = packed[j] & 0x3f;
      block.minimums[j] = packed[j + 4] & 0x3f;
    } else {
      block.scales[j] = static_cast<std::uint8_t>((packed[j + 4] & 0x0f) | (packed[j - 4] >> 2 & 0x30));
      block.minimums[j] = static_cast<std::uint8_t>(packed[j + 4] >> 4 | (packed[j] >> 2 & 0x30));
    }
    for (int i = 0; i < 32; ++i) block.q[32 * j + i] = nibbles[32 * (j / 2) + i] >> 4 * (j % 2) & 0x0f;
  }
}

void read_q6_k(const std::uint8_t* in, RowBlock& block) {
  block.d = half_at(in + 208);
  std::memcpy(block.scales, in + 192, sizeof block.scales);
  for (int j = 0; j < 8; ++j) {
    const std::uint8_t *low = in + 64 * (j / 4) + 32 * (j % 2), *high = in + 128 + 32 * (j / 4);
    for (int i = 0; i < 32; ++i) {
      const int nibble = low[i] >> 4 * (j / 2 % 2) & 0x0f, upper = high[i] >> 2 * (j % 4) & 3;
      block.q[32 * j + i] = static_cast<std::uint8_t>(nibble | upper << 4);
    }
  }
}

void read_block(DType dtype, const std::uint8_t* in, RowBlock& block) {
  switch (dtype) {
    case DType::kQ4_0: block.d = half_at(in); return read_nibbles(in + 2, block);
    case DType::kQ4_1:
      block.d = half_at(in);
      block.m = half_at(in + 2);
      return read_nibbles(in + 4, block);
    case DType::kQ8_0:
      block.d = half_at(in);
      for (int i = 0; i < 32; ++i) block.q[i] = in[2 + i] ^ 0x80;
      return;
    case DType::kQ5_0:
      block.d = half_at(in);
      read_nibbles(in + 6, block);
      return add_fifth_bits(in + 2, 128 - 16, block);
    case DType::kQ5_1:
      block.d = half_at(in);
      block.m = half_at(in + 2);
      read_nibbles(in + 8, block);
      return add_fifth_bits(in + 4, 128, block);
    case DType::kIQ4_NL: block.d = half_at(in); return read_iq4_nl(in, block);
    case DType::kQ4_K: return read_q4_k(in, block);
    case DType::kQ6_K: return read_q6_k(in, block);
    default: check(false, "arrange_group: a type that has a kind");
  }
}

void put_half(std::uint8_t* out, std::int64_t lane, std::uint16_t half) {
  std::memcpy(out + 2 * lane, &half, sizeof half);
}

void put_bytes(const std::uint8_t* q, std::int64_t columns, std::int64_t lane, std::uint8_t* out) {
  for (std::int64_t c = 0; c < columns; c += 4) std::memcpy(out + 16 * c + 4 * lane, q + c, 4);
}

void put_nibbles(const std::uint8_t* q, std::int64_t columns, std::int64_t lane, std::uint8_t* out) {
  for (std::int64_t c = 0; c < columns; c += 8) {
    for (std::int64_t i = 0; i < 4; ++i) {
      out[8 * c + 4 * lane + i] = static_cast<std::uint8_t>((q[c + i] & 0x0f) | (q[c + 4 + i] & 0x0f) << 4);
    }
  }
}

void put_six_bits(const std::uint8_t* q, std::int64_t lane, std::uint8_t* out) {
  for (std::int64_t c = 0; c < 256; c += 16, out += 192) {
    put_nibbles(q + c, 16, lane, out);
    for (std::int64_t i = 0; i < 4; ++i) {
      int upper = 0;
      for (int part = 0; part < 4; ++part) upper |= q[c + 4 * part + i] >> 4 << 2 * part;
      out[128 + 4 * lane + i] = static_cast<std::uint8_t>(upper);
    }
  }
}

void put_block(BlockKind kind, const RowBlock& block, std::int64_t lane, std::uint8_t* out) {
  put_half(out, lane, block.d);
  switch (kind) {
    case BlockKind::kQ4: return put_nibbles(block.q, 32, lane, out + 32);
    case BlockKind::kQ8: return put_bytes(block.q, 32, lane, out + 32);
    case BlockKind::kQ4Min:
      put_half(out + 32, lane, block.m);
      return put_nibbles(block.q, 32, lane, out + 64);
    case BlockKind::kQ8Min: put_half(out + 32, lane, block.m); return put_bytes(block.q, 32, lane, out + 64);
    case BlockKind::kQ4K:
      put_half(out + 32, lane, block.m);
      for (std::int64_t j = 0; j < 8; ++j) {
        out[64 + 32 * j + lane] = block.scales[j];
        out[64 + 32 * j + 16 + lane] = block.minimums[j];
      }
      return put_nibbles(block.q, 256, lane, out + 320);
    case BlockKind::kQ6K:
      for (std::int64_t j = 0; j < 16; ++j) out[32 + 16 * j + lane] = block.scales[j];
      return put_six_bits(block.q, lane, out + 288);
  }
}

}  // namespace

std::optional<BlockKind> block_kind(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0: return BlockKind::kQ4;
    case DType::kQ4_1: return BlockKind::kQ4Min;
    case DType::kQ8_0:
    case DType::kQ5_0:
    case DType::kIQ4_NL: return BlockKind::kQ8;
    case DType::kQ5_1: return BlockKind::kQ8Min;
    case DType::kQ4_K: return BlockKind::kQ4K;
    case DType::kQ6_K: return BlockKind::kQ6K;
    default: return std::nullopt;
  }
}

std::optional<std::int64_t> stored_bytes(DType dtype, std::int64_t rows, std::int64_t columns) {
  const auto kind = block_kind(dtype);
  if (!kind || columns % block_shape(*kind).columns != 0) return std::nullopt;
  const std::int64_t groups = (rows + kGroupRows - 1) / kGroupRows;
  return groups * (columns / block_shape(*kind).columns) * block_shape(*kind).bytes;
}

void arrange_group(DType dtype, std::int64_t rows, std::int64_t columns, std::span<const std::byte> stored,
                   std::byte* group) {
  const BlockKind kind = block_kind(dtype).value();
  const BlockShape shape = block_shape(kind);
  const std::int64_t blocks = columns / shape.columns, stored_bytes = dtype_info(dtype).block_bytes;
  check(columns % shape.columns == 0 && dtype_info(dtype).block_elements == shape.columns,
        "arrange_group: rows of whole blocks");
  check(static_cast<std::int64_t>(stored.size()) == rows * blocks * stored_bytes,
        "arrange_group: the rows' bytes");
  std::fill_n(group, blocks * shape.bytes, std::byte{0});
  const auto* in = reinterpret_cast<const std::uint8_t*>(stored.data());
  for (std::int64_t lane = 0; lane < rows; ++lane) {
    auto* out = reinterpret_cast<std::uint8_t*>(group);
    for (std::int64_t b = 0; b < blocks; ++b, in += stored_bytes, out += shape.bytes) {
      RowBlock block;
      read_block(dtype, in, block);
      put_block(kind, block, lane, out);
    }
  }
}

}  // namespace winnow::cpu
