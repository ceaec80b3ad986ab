#include "backends/reference/reference_int8.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/reference/elements.h"
#include "core/check.h"
#include "core/error.h"

namespace winnow::reference {
namespace {

// How many columns are transformed together: the largest power of two up to 64 that divides all columns.
std::int64_t rotation(std::int64_t columns) {
  std::int64_t size = 1;
  while (size < 64 && columns % (2 * size) == 0) size *= 2;
  return size;
}

std::vector<float> rotate(std::span<const float> row) {
  std::vector<float> x(row.begin(), row.end());
  const std::size_t columns = x.size();
  for (std::size_t run = columns / static_cast<std::size_t>(rotation(std::ssize(x))); run < columns;
       run *= 2) {
    for (std::size_t k = 0; k < columns; ++k) {
      if (k / run % 2 != 0) continue;
      const float a = x[k], b = x[k + run];
      x[k] = a + b, x[k + run] = a - b;
    }
  }
  return x;
}

}  // namespace

Int8Row round_row(std::span<const float> plain) {
  const std::vector<float> row = rotate(plain);
  Int8Row rounded{std::vector<std::int8_t>(row.size()), 0};
  float most = 0;
  for (const float value : row) {
    if (!std::isfinite(value)) {
      rounded.scale = std::numeric_limits<float>::quiet_NaN();
      return rounded;
    }
    most = std::max(most, std::abs(value));
  }
  if (most < 1e-30f) return rounded;
  const float inverse = 127.0f / most;
  for (std::size_t k = 0; k < row.size(); ++k) {
    rounded.q[k] = static_cast<std::int8_t>(std::nearbyint(row[k] * inverse));
  }
  rounded.scale = most / 127.0f;
  return rounded;
}

Int8Weight::Int8Weight(std::int64_t out_features, std::int64_t in_features, const RowReader& reader)
    : in_features_(in_features) {
  std::vector<float> row(static_cast<std::size_t>(in_features));
  for (std::int64_t feature = 0; feature < out_features; ++feature) {
    reader(feature, feature + 1, row);
    rows_.push_back(round_row(row));
    if (!std::isnan(rows_.back().scale)) continue;
    fail(ErrorCode::kBadFormat, "--precision int8: row {} of a weight is not finite and has no scale",
         feature);
  }
}

void linear(const LinearParams& params, const Int8Weight& weight) {
  check(params.x.cols == weight.in_features(), "linear: x has in_features columns");
  check(params.y.rows == params.x.rows && params.y.cols == weight.out_features(),
        "linear: y is [rows, out_features]");
  check(!params.accumulate || params.y.dtype == DType::kF32, "linear: only float32 accumulates");
  for (std::int64_t r = 0; r < params.x.rows; ++r) {
    const std::vector<double> wide = get_row(params.x, r);
    const Int8Row x = round_row(std::vector<float>(wide.begin(), wide.end()));
    for (std::int64_t o = 0; o < weight.out_features(); ++o) {
      const Int8Row& w = weight.row(o);
      std::int64_t sum = 0;
      for (std::int64_t i = 0; i < weight.in_features(); ++i) sum += x.q[i] * w.q[i];
      double y =
          static_cast<double>(sum) * x.scale * w.scale / static_cast<double>(rotation(weight.in_features()));
      if (params.bias != nullptr) y += params.bias[o];
      if (params.accumulate) y += params.y.row<float>(r)[o];
      set_element(params.y.row<void>(r), params.y.dtype, o, y);
    }
  }
}

}  // namespace winnow::reference
