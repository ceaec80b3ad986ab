// Matrix products on oneDNN: packed weights and a cache of primitives. The only file pair that knows oneDNN.
#pragma once

#include <cstdint>
#include <memory>

#include "backends/backend.h"

namespace winnow::cpu {

class Gemm {
 public:
  Gemm(Precision precision, int threads);
  ~Gemm();

  std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features, const RowReader& reader);

  // Many rows are split over the threads, each running its own single-threaded product, so that a thread's
  // rows stay in its cache from op to op; few rows are split by output feature inside oneDNN.
  void linear(const LinearParams& params);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace winnow::cpu
