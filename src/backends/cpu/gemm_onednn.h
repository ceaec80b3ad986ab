// Matrix products on oneDNN: packed weights and a cache of primitives. The only file pair that knows oneDNN.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backends/backend.h"

namespace winnow::cpu {

// Whether oneDNN can be asked for Precision::kBF16 on this CPU; ONEDNN_MAX_CPU_ISA counts. See
// widened_gemm.h.
bool has_bf16_products();

class Gemm {
 public:
  Gemm(Precision precision, int threads);
  ~Gemm();

  // With `stored` (may be empty) the weight gets a decode form: of bf16 precision, where the parts' types
  // have one; what is no quantised type is read from the packed form, where the machine can.
  std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features, const RowReader& reader,
                               std::span<const StoredRows> stored);

  // Many rows are split over the threads, each running its own single-threaded product, so that a thread's
  // rows stay in its cache from op to op; few rows are split by output feature inside oneDNN, or run on the
  // weight's decode form.
  void linear(const LinearParams& params);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace winnow::cpu
