// StoredWeight: a quantised matrix for products with few rows, all of its groups (stored_blocks.h). Made by
// pack_stored(), used by Gemm::linear() for decoding; prefill uses the packed form beside it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/stored_kernels.h"

namespace winnow::cpu {

// Rows of activations that go through a group of weights together.
constexpr std::int64_t kRowsPerPass = 64;

class StoredWeight {
 public:
  // Null where a part has a type that is not kept as stored.
  static std::unique_ptr<StoredWeight> arrange(std::int64_t in_features, std::span<const StoredRows> parts,
                                               int threads);

  std::int64_t bytes() const { return data_.bytes(); }

  // params.y = params.x W^T and so on. `scratch` is grown to hold the activations.
  void multiply(const LinearParams& params, const StoredKernels& kernels, int threads, Buffer& scratch) const;

 private:
  struct Group {
    BlockKind kind;
    const std::byte* data;
    std::int64_t first_row, rows;
  };

  std::int64_t in_features_ = 0;
  Buffer data_;
  std::vector<Group> groups_;
};

// y (or y += where params.accumulate), with bias: columns [first, first + count) of rows [begin, begin +
// rows) of params.y, from `sums` [rows, stride].
void write_products(const LinearParams& params, const StoredKernels& kernels, std::int64_t begin,
                    std::int64_t rows, std::int64_t first, std::int64_t count, const float* sums,
                    std::int64_t stride);

}  // namespace winnow::cpu
