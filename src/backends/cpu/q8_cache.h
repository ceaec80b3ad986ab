// How the CPU backend lays out a cache of KvType::kQ8, and rows in and out of it. Called by rope_append.cc,
// the decode kernels and cpu_backend.cc.
//
// What the integer dot products take (vpdpbusd: sums of four products of an unsigned and a signed byte), with
// a row of keys or a dimension of values in a lane: keys k[kv_head][row / 16][dim / 4][row % 16][dim % 4],
// stored as unsigned code + 128; values v[kv_head][row / 4][dim][row % 4], signed. Dimensions are padded to a
// multiple of 16. Behind the codes of all heads their scales, bf16: of keys [kv_head][row / 16][dim / 32][row
// % 16], of values [kv_head][row]. Capacity is a multiple of 32 rows; rows past the end hold anything.
#pragma once

#include <cstdint>

#include "backends/backend.h"
#include "backends/cpu/kv_layout.h"

namespace winnow::cpu {

constexpr std::int64_t q8_padded_dim(std::int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

struct Q8Layout {
  std::int64_t head_dim;
  std::int64_t capacity;  // rows, a multiple of kCapacityStep

  std::int64_t padded_dim() const { return q8_padded_dim(head_dim); }
  std::int64_t key_scales() const { return (head_dim + kQ8KeyDims - 1) / kQ8KeyDims; }  // of a row
  std::int64_t head_codes() const { return capacity * padded_dim(); }
  std::int64_t key_bytes(std::int64_t kv_heads) const {
    return kv_heads * capacity * (padded_dim() + 2 * key_scales());
  }
  std::int64_t value_bytes(std::int64_t kv_heads) const { return kv_heads * capacity * (padded_dim() + 2); }

  std::int64_t key_index(std::int64_t row, std::int64_t dim) const {
    return row / kKeyBlock * kKeyBlock * padded_dim() + dim / 4 * (4 * kKeyBlock) + row % kKeyBlock * 4 +
           dim % 4;
  }
  std::int64_t value_index(std::int64_t row, std::int64_t dim) const {
    return row / 4 * 4 * padded_dim() + dim * 4 + row % 4;
  }
  std::int64_t key_scale_index(std::int64_t row, std::int64_t group) const {
    return (row / kKeyBlock * key_scales() + group) * kKeyBlock + row % kKeyBlock;
  }
};

inline Q8Layout q8_layout(const LayerKv& kv) { return {kv.head_dim, kv.capacity}; }

// One kv head of a cache.
struct Q8Head {
  Q8Layout layout;
  std::uint8_t* k;
  BF16* k_scales;
  std::int8_t* v;
  BF16* v_scales;

  Q8Head(const Q8Layout& of, std::int64_t kv_heads, std::int64_t head, const Buffer& keys,
         const Buffer& values)
      : layout(of),
        k(keys.as<std::uint8_t>() + head * of.head_codes()),
        k_scales(reinterpret_cast<BF16*>(keys.as<std::byte>() + kv_heads * of.head_codes()) +
                 head * of.capacity * of.key_scales()),
        v(values.as<std::int8_t>() + head * of.head_codes()),
        v_scales(reinterpret_cast<BF16*>(values.as<std::byte>() + kv_heads * of.head_codes()) +
                 head * of.capacity) {}
  Q8Head(const LayerKv& kv, std::int64_t head) : Q8Head(q8_layout(kv), kv.kv_heads, head, kv.k, kv.v) {}
};

float largest_magnitude(const float* x, std::int64_t count);

// Rounds `count` floats to codes; their scale.
BF16 round_to_q8(const float* x, std::int64_t count, std::int8_t* codes);

// A row of keys and values [head_dim] into the cache. Threads may write neighbouring rows.
void write_q8_row(const Q8Head& head, std::int64_t row, const float* key, const float* value);

// Rows [begin, end) of all heads out of it, into a cache of `dtype` in the layout of kv_layout.h.
void unpack_q8_rows(const LayerKv& q8, LayerKv& to, DType dtype, std::int64_t begin, std::int64_t end);

// Row rows[i] of `from` becomes row i of `to`, for i in [begin, end).
void copy_q8_rows(const Q8Head& from, const Q8Head& to, std::span<const std::int64_t> rows,
                  std::int64_t begin, std::int64_t end);

}  // namespace winnow::cpu
