// Elements of float32 or bfloat16 memory as doubles. The reference backend reads and writes through these
// only, so every value is rounded exactly once, when it is stored.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.h"
#include "core/check.h"
#include "core/dtype.h"

namespace winnow::reference {

inline double get_element(const void* data, DType dtype, std::int64_t i) {
  if (dtype == DType::kBF16) return to_float(static_cast<const BF16*>(data)[i]);
  return static_cast<const float*>(data)[i];
}

inline void set_element(void* data, DType dtype, std::int64_t i, double value) {
  const auto rounded = static_cast<float>(value);
  if (dtype == DType::kBF16) {
    static_cast<BF16*>(data)[i] = to_bf16(rounded);
  } else {
    static_cast<float*>(data)[i] = rounded;
  }
}

inline void check_dtype(const MatrixView& view) {
  check(view.dtype == DType::kF32 || view.dtype == DType::kBF16, "a matrix of a backend is F32 or BF16");
}

inline std::vector<double> get_row(const MatrixView& view, std::int64_t row) {
  std::vector<double> values(static_cast<std::size_t>(view.cols));
  for (std::int64_t c = 0; c < view.cols; ++c) values[c] = get_element(view.row<void>(row), view.dtype, c);
  return values;
}

inline void set_row(const MatrixView& view, std::int64_t row, const std::vector<double>& values) {
  for (std::int64_t c = 0; c < view.cols; ++c) set_element(view.row<void>(row), view.dtype, c, values[c]);
}

}  // namespace winnow::reference
