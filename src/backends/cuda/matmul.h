// Matmul: products with a weight through cuBLASLt.
//
// For each kind of product (sizes, types, what is added) the fastest of cuBLASLt's candidates is measured
// once and kept in a file (choice_file.h).
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "backends/cuda/choice_file.h"
#include "backends/cuda/device.h"

namespace winnow::cuda {

struct MatmulArgs {
  const void* x;       // [rows, in]
  const void* weight;  // [out, in]
  const void* bias;    // [out] of y's type, or nullptr
  void* y;             // [rows, out]
  std::int64_t rows, in, out;
  bool bf16;        // x and weight; else float32
  bool y_bf16;      // else float32
  bool accumulate;  // y += ...; y float32
};

// logits[b] = q[b] k[b]^T, bf16 into float32; every row begins at a multiple of 16 bytes.
struct BatchedLogitsArgs {
  const void* q;  // [batch, queries, dim]
  const void* k;  // batch b: [rows, dim] from element b * dim on, rows k_stride elements apart
  float* logits;  // [batch, queries, rows], rows logits_stride elements apart
  std::int64_t batch, queries, rows, dim, k_stride, logits_stride;
};

class Matmul {
 public:
  // `stored`: what the file of choices says.
  Matmul(Device& device, const StoredChoices& stored);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  void linear(const MatmulArgs& args);
  void batched_logits(const BatchedLogitsArgs& args);

 private:
  // What a choice depends on: rows (rounded), in, out, types and additions, alignments.
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, int, int>;

  const cublasLtMatmulAlgo_t& choose(const MatmulArgs& args, cublasLtMatmulDesc_t product,
                                     const cublasLtMatrixLayout_t (&layouts)[3], int alignment);
  cublasLtMatmulAlgo_t measure(const MatmulArgs& args, cublasLtMatmulDesc_t product,
                               const cublasLtMatrixLayout_t (&layouts)[3], int alignment);
  std::string key_text(const Key& key) const;
  void load_choices(const StoredChoices& stored);
  void store_choice(const Key& key, const cublasLtMatmulAlgo_t& algorithm) const;

  Device& device_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> choices_;
  std::map<Key, cublasLtMatmulAlgo_t> logit_choices_;   // rows rounded, queries, dim, batch, 0
  std::map<std::string, cublasLtMatmulAlgo_t> stored_;  // of the file
};

}  // namespace winnow::cuda
