#include "backends/cpu/q8_kernel.h"

#include <algorithm>
#include <bit>

#include "core/check.h"

namespace winnow::cpu {

void prepare_q8_query(const MatrixView& q, std::int64_t first_column, std::int64_t head_dim, Q8Query& query) {
  check(head_dim <= kMaxHeadDim, "decode attention: heads of at most 512 dimensions");
  constexpr float kLevels = 127 * 128 + 63;  // the most that two bytes hold
  constexpr float kRound = 12582912.0f;      // adding 1.5 * 2^23 leaves the integer in the low bits
  const std::int64_t padded = q8_padded_dim(head_dim);
  if (q.dtype == DType::kF32) {
    std::copy_n(q.row<float>(0) + first_column, head_dim, query.values);
  } else {
    const BF16* from = q.row<BF16>(0) + first_column;
    for (std::int64_t d = 0; d < head_dim; ++d) query.values[d] = to_float(from[d]);
  }
  std::fill(query.values + head_dim, query.values + padded, 0.0f);
  const float largest = largest_magnitude(query.values, head_dim);
  const float levels = largest > 0 ? kLevels / largest : 0.0f;
  query.scale = largest / kLevels;
  for (std::int64_t d = 0; d < padded; ++d) {
    const std::int32_t level =
        std::bit_cast<std::int32_t>(query.values[d] * levels + kRound) - std::bit_cast<std::int32_t>(kRound);
    const std::int32_t low = ((level + 64) & 127) - 64;
    query.low[d] = static_cast<std::int8_t>(low);
    query.high[d] = static_cast<std::int8_t>((level - low) >> 7);
  }
  for (std::int64_t first = 0; first < padded; first += kQ8KeyDims) {
    std::int32_t high = 0, low = 0;
    for (std::int64_t d = first; d < std::min(padded, first + kQ8KeyDims); ++d) {
      high += query.high[d];
      low += query.low[d];
    }
    query.high_offset[first / kQ8KeyDims] = -128 * high;
    query.low_offset[first / kQ8KeyDims] = -128 * low;
  }
}

const Q8Kernel& choose_q8_kernel() {
  static const Q8Kernel& chosen =
      avx512_vnni_q8_kernel() != nullptr ? *avx512_vnni_q8_kernel() : portable_q8_kernel();
  return chosen;
}

}  // namespace winnow::cpu
