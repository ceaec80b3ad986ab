// Matrix products in int8 on oneDNN (--precision int8): weights rounded with a scale for each output feature
// when they are packed, activations row by row as they come (int8_rows.h). Used by CpuBackend; attention,
// norms and the residual stream are as in bf16.
#pragma once

#include <cstdint>
#include <memory>

#include "backends/backend.h"

namespace winnow::cpu {

class Int8Gemm {
 public:
  // Error(kUnsupported) where the CPU has no int8 dot products: oneDNN would halve the weights there.
  explicit Int8Gemm(int threads);
  ~Int8Gemm();

  // Error(kUnsupported) for more than 65,536 in_features, whose sums may overflow; Error(kBadFormat) for a
  // weight that is not finite.
  std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features, const RowReader& reader);

  // params.weight comes from pack(). Split over the threads as Gemm::linear.
  void linear(const LinearParams& params);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace winnow::cpu
