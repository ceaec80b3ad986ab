// One kv head's cached rows as doubles, and the softmax over them: the definitions that the ops around the
// reference cache share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "backends/backend.h"
#include "backends/reference/elements.h"

namespace winnow::reference {

using Vector = std::vector<double>;

inline double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// What a cache's elements are stored as: those of 8 bits as the float32 numbers they stand for.
inline DType stored_dtype(const LayerKv& kv, DType compute) {
  return kv.type == KvType::kQ8 ? DType::kF32 : compute;
}

// The first `rows` rows of a cache's keys (or values) of one kv head, [rows][head_dim].
inline std::vector<Vector> cached_rows(const LayerKv& kv, const Buffer& buffer, DType dtype,
                                       std::int64_t kv_head, std::int64_t rows) {
  const MatrixView view{buffer.as<>(), stored_dtype(kv, dtype), kv.capacity, kv.kv_heads * kv.head_dim};
  std::vector<Vector> result(static_cast<std::size_t>(rows), Vector(static_cast<std::size_t>(kv.head_dim)));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t d = 0; d < kv.head_dim; ++d) {
      result[r][d] = get_element(view.row<void>(r), view.dtype, kv_head * kv.head_dim + d);
    }
  }
  return result;
}

inline void softmax(Vector& logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (double& value : logits) sum += value = std::exp(value - highest);
  for (double& value : logits) value /= sum;
}

// softmax(scale * q . k) over cache rows first..row, and 0 before them: [row + 1].
inline Vector probabilities(const double* q, const std::vector<Vector>& keys, std::int64_t first,
                            std::int64_t row, double scale) {
  Vector seen;
  for (std::int64_t j = first; j <= row; ++j) {
    seen.push_back(scale * dot(q, keys[j].data(), static_cast<std::int64_t>(keys[j].size())));
  }
  softmax(seen);
  Vector p(static_cast<std::size_t>(first), 0.0);
  p.insert(p.end(), seen.begin(), seen.end());
  return p;
}

}  // namespace winnow::reference
