// Products of bf16 precision where oneDNN has none (x86 without AVX-512, 64-bit Arm): the same bf16 numbers,
// multiplied in float32. Used by CpuBackend in place of Gemm; weights take twice the memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backends/backend.h"
#include "backends/cpu/gemm_onednn.h"
#include "backends/cpu/stored_kernels.h"

namespace winnow::cpu {

class WidenedGemm {
 public:
  explicit WidenedGemm(int threads) : threads_(threads), gemm_(Precision::kF32, threads) {}

  // As Gemm's. The weight is rounded to bf16; plain types have no decode form.
  std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features, const RowReader& reader,
                               std::span<const StoredRows> stored);
  void linear(const LinearParams& params);

 private:
  int threads_;
  Gemm gemm_;
  const StoredKernels& stored_kernels_ = choose_stored_kernels();
  Buffer x_, y_, decode_rows_;
};

}  // namespace winnow::cpu
