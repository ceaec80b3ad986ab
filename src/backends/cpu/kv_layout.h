// How the CPU backend lays out one layer's keys and values.
//
// BF16: keys in blocks of 16 rows with pairs of dimensions interleaved, k[kv_head][row / 16][dim / 2][row %
// 16][dim % 2]; values with pairs of rows interleaved, v[kv_head][row / 2][dim][row % 2]. Both are what the
// bf16 dot-product and matrix instructions take as their right operand, so attention never repacks the cache,
// in prefill or decode. F32: k[kv_head][row / 16][dim][row % 16], v[kv_head][row][dim]. Odd head dimensions
// are padded to even for BF16. Capacity is a multiple of 32 rows; rows past the end hold zeros, so whole
// blocks may be read.
#pragma once

#include <cstdint>

#include "backends/backend.h"

namespace winnow::cpu {

constexpr std::int64_t kKeyBlock = 16;      // rows in one block of keys
constexpr std::int64_t kCapacityStep = 32;  // rows

struct KvLayout {
  DType dtype;
  std::int64_t head_dim;
  std::int64_t capacity;  // rows, a multiple of kCapacityStep

  std::int64_t padded_dim() const { return dtype == DType::kBF16 ? (head_dim + 1) / 2 * 2 : head_dim; }
  std::int64_t head_elements() const { return capacity * padded_dim(); }

  // Index of an element of one kv head's keys or values.
  std::int64_t key_index(std::int64_t row, std::int64_t dim) const {
    const std::int64_t block = row / kKeyBlock * kKeyBlock * padded_dim();
    if (dtype == DType::kBF16) return block + dim / 2 * (2 * kKeyBlock) + row % kKeyBlock * 2 + dim % 2;
    return block + dim * kKeyBlock + row % kKeyBlock;
  }
  std::int64_t value_index(std::int64_t row, std::int64_t dim) const {
    if (dtype == DType::kBF16) return row / 2 * (2 * padded_dim()) + dim * 2 + row % 2;
    return row * head_dim + dim;
  }
};

inline KvLayout kv_layout(const LayerKv& kv, DType dtype) { return {dtype, kv.head_dim, kv.capacity}; }

}  // namespace winnow::cpu
