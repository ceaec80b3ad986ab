// How the CPU backend keeps quantised weights for products with few rows (decoding): the file's own integers
// and scales, nothing rounded, rearranged so that one SIMD lane is one output feature.
//
// 16 output features are a group; a group's blocks (32 or 256 input features of each) follow each other in
// memory, so a product reads its weights once, front to back. A group's block is
//
//   kind     columns  holds (every [16] is one value an output feature)
//   kQ4      32       d f16[16], then nibbles                                 x = d (q - 8)       Q4_0
//   kQ4Min   32       d f16[16], m f16[16], then nibbles                      x = d q + m         Q4_1
//   kQ8      32       d f16[16], then bytes                                   x = d (q - 128)     Q8_0, Q5_0,
//   IQ4_NL kQ8Min   32       d f16[16], m f16[16], then bytes                        x = d (q - 128) + m Q5_1
//   kQ4K     256      d f16[16], dmin f16[16], 8 x (scale u8[16], minimum u8[16]), then nibbles
//                     x = d scale q - dmin minimum, a scale for 32 columns                        Q4_K
//   kQ6K     256      d f16[16], 16 x scale i8[16], then 6-bit runs           x = d scale (q - 32), for 16
//   columns Q6_K
//
// bytes: for every 4 columns 64 bytes, [16][4]. nibbles: for every 8 columns 64 bytes, [16][4], the low
// nibbles columns 0..3 and the high ones 4..7. 6-bit runs: for every 16 columns 128 bytes of nibbles and 64
// bytes of the upper two bits, columns 0..3 in bits 0 and 1, 4..7 in bits 2 and 3, and so on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/dtype.h"

namespace winnow::cpu {

constexpr std::int64_t kGroupRows = 16;

enum class BlockKind : std::uint8_t { kQ4, kQ4Min, kQ8, kQ8Min, kQ4K, kQ6K };

struct BlockShape {
  std::int64_t columns;
  std::int64_t bytes;  // of one block of a group
};

constexpr BlockShape block_shape(BlockKind kind) {
  switch (kind) {
    case BlockKind::kQ4: return {32, 32 + 256};
    case BlockKind::kQ4Min: return {32, 64 + 256};
    case BlockKind::kQ8: return {32, 32 + 512};
    case BlockKind::kQ8Min: return {32, 64 + 512};
    case BlockKind::kQ4K: return {256, 64 + 256 + 2048};
    case BlockKind::kQ6K: return {256, 32 + 256 + 3072};
  }
  return {1, 0};
}

// The kind that holds a type of tensor; none: it is not kept as stored.
std::optional<BlockKind> block_kind(DType dtype);

// Bytes of a [rows, columns] tensor in this form; none where it is not kept so.
std::optional<std::int64_t> stored_bytes(DType dtype, std::int64_t rows, std::int64_t columns);

// Rearranges `rows` <= kGroupRows stored rows of `columns` elements, one after the other in `stored`, into
// one group; lanes past `rows` are zeros. `group` holds columns / block columns * block bytes.
void arrange_group(DType dtype, std::int64_t rows, std::int64_t columns, std::span<const std::byte> stored,
                   std::byte* group);

}  // namespace winnow::cpu
