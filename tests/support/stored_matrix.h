// Quantised matrices for tests: random blocks of any type and what they mean.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "formats/dequantize.h"

namespace winnow {

// Rows of random blocks, their half-precision scales between 2^-6 and 2^-3 and of any sign.
struct StoredMatrix {
  DType dtype;
  std::int64_t rows, cols;
  std::vector<std::byte> bytes;
  std::vector<float> values;

  StoredMatrix(DType type, std::int64_t row_count, std::int64_t col_count, unsigned seed)
      : dtype(type),
        rows(row_count),
        cols(col_count),
        values(static_cast<std::size_t>(row_count * col_count)) {
    bytes.resize(static_cast<std::size_t>(rows * row_bytes()));
    std::mt19937 random(seed);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    const auto block = static_cast<std::size_t>(dtype_info(dtype).block_bytes);
    for (std::size_t at = 0; at < bytes.size(); at += block) {
      for (const std::size_t half : half_offsets(dtype)) {
        bytes[at + half + 1] = static_cast<std::byte>((random() & 0x80) | (0x24 + random() % 12));
      }
    }
    dequantize(dtype, bytes, values);
  }

  std::int64_t row_bytes() const { return dtype_bytes(dtype, cols); }
  std::span<const std::byte> stored(std::int64_t begin, std::int64_t end) const {
    return std::span(bytes).subspan(static_cast<std::size_t>(begin * row_bytes()),
                                    static_cast<std::size_t>((end - begin) * row_bytes()));
  }
  // As a source hands them out.
  StoredRows part() const {
    return {dtype, rows, [this](std::int64_t begin, std::int64_t end, std::span<std::byte> to) {
              const auto from = stored(begin, end);
              std::copy(from.begin(), from.end(), to.begin());
            }};
  }
  static std::vector<std::size_t> half_offsets(DType type) {
    if (type == DType::kQ6_K) return {208};
    if (type == DType::kQ4_1 || type == DType::kQ5_1 || type == DType::kQ4_K) return {0, 2};
    return {0};
  }
};

}  // namespace winnow
