// StoredWeight: a quantised matrix as its file stores it, on the GPU, for products with few rows (decoding)
// and for embeddings.
//
// The file's own integers and scales, rearranged as the CPU backend does (backends/cpu/stored_blocks.h): 16
// output features are a group, so that 16 threads read one run of memory. Weights are dequantised in float32
// as they are read; activations stay as they are.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/stored_blocks.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"

namespace winnow::cuda {

class StoredWeight {
 public:
  // Null where a part has a type that is not kept as stored.
  static std::unique_ptr<StoredWeight> arrange(std::int64_t in_features, std::span<const StoredRows> parts,
                                               Device& device);

  std::int64_t bytes() const { return data_.bytes(); }
  // args.weight is not looked at.
  void multiply(const GemvArgs& args, cudaStream_t stream) const;
  // hidden[i] = scale * row rows[i]; rows in device memory.
  void gather(const std::int32_t* rows, float scale, float* hidden, std::int64_t count,
              cudaStream_t stream) const;

 private:
  struct Part {
    cpu::BlockKind kind;
    std::int64_t first_row, rows;
    std::int64_t at;  // bytes into data_
  };

  std::int64_t in_features_ = 0;
  Buffer data_;
  std::vector<Part> parts_;
};

}  // namespace winnow::cuda
