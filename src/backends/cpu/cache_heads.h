// Where queries and keys of one head lie: geometry for everything that walks a cache head by head.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "backends/cpu/kv_layout.h"
#include "backends/cpu/tile_kernels.h"
#include "core/check.h"

namespace winnow::cpu {

struct CacheHeads {
  DType dtype;
  std::int64_t heads, kv_heads, group;  // query heads, kv heads, and how many of the former share one
  std::int64_t dim, padded_dim, element_bytes;

  CacheHeads(std::int64_t q_cols, const LayerKv& kv, const TileKernels& kernels)
      : dtype(kernels.dtype),
        heads(q_cols / kv.head_dim),
        kv_heads(kv.kv_heads),
        group(heads / kv.kv_heads),
        dim(kv.head_dim),
        padded_dim(kv_layout(kv, kernels.dtype).padded_dim()),
        element_bytes(dtype_bytes(kernels.dtype, 1)) {
    check(q_cols == heads * dim && heads % kv_heads == 0, "q has a multiple of kv_heads heads");
    check(kv.type == KvType::kSame, "this op takes no caches in 8 bits");
  }

  // Keys of one kv head from `row` on, a multiple of kKeyBlock.
  const std::byte* keys(const LayerKv& kv, std::int64_t kv_head, std::int64_t row = 0) const {
    return kv.k.as<>() + (kv_head * kv.capacity + row) * padded_dim * element_bytes;
  }
  const std::byte* values(const LayerKv& kv, std::int64_t kv_head) const {
    return kv.v.as<>() + kv_head * kv.capacity * padded_dim * element_bytes;
  }
  // Copies one head of one query; what follows its dim elements stays as it is. Heads of successive queries
  // are far apart in memory, which the processor does not foresee.
  void copy_query(const MatrixView& q, std::int64_t query, std::int64_t head, std::byte* to) const {
    const std::byte* soon = q.row<std::byte>(std::min(query + 16, q.rows - 1)) + head * dim * element_bytes;
    for (std::int64_t i = 0; i < dim * element_bytes; i += 64) __builtin_prefetch(soon + i);
    std::memcpy(to, q.row<std::byte>(query) + head * dim * element_bytes,
                static_cast<std::size_t>(dim * element_bytes));
  }
};

// `buffer` holds `heads` runs of `from` bytes; afterwards runs of `to` bytes that begin with the old ones and
// end in zeros.
inline void grow_heads(Buffer& buffer, std::int64_t heads, std::int64_t from, std::int64_t to) {
  Buffer grown = Buffer::host(heads * to);
  std::memset(grown.as<>(), 0, static_cast<std::size_t>(heads * to));
  for (std::int64_t head = 0; head < heads && from > 0; ++head) {
    std::memcpy(grown.as<>() + head * to, buffer.as<>() + head * from, static_cast<std::size_t>(from));
  }
  buffer = std::move(grown);
}

inline float load_element(DType dtype, const std::byte* rows, std::int64_t index) {
  return dtype == DType::kBF16 ? to_float(reinterpret_cast<const BF16*>(rows)[index])
                               : reinterpret_cast<const float*>(rows)[index];
}

inline void store_element(DType dtype, std::byte* rows, std::int64_t index, float value) {
  if (dtype == DType::kBF16) {
    reinterpret_cast<BF16*>(rows)[index] = to_bf16(value);
  } else {
    reinterpret_cast<float*>(rows)[index] = value;
  }
}

}  // namespace winnow::cpu
