// Precision::kInt8 of the reference backend: integers summed exactly, the result computed in double. Called
// by reference_backend.cc only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backends/backend.h"

namespace winnow::reference {

// A row, Hadamard-transformed as backends/cpu/int8_rows.h defines it, as scale times integers in -127..127:
// scale = max |x'| / 127, each rounded to the nearest, ties to even. The arithmetic is float32, as the CPU
// backend's, so that both round alike. Zeros for a row below 1e-30; the scale is NaN for one that is not
// finite.
struct Int8Row {
  std::vector<std::int8_t> q;
  float scale = 0;
};
Int8Row round_row(std::span<const float> plain);

class Int8Weight final : public Weight {
 public:
  // Error(kBadFormat) for a row that is not finite.
  Int8Weight(std::int64_t out_features, std::int64_t in_features, const RowReader& reader);
  std::int64_t out_features() const override { return static_cast<std::int64_t>(rows_.size()); }
  std::int64_t in_features() const override { return in_features_; }
  std::int64_t bytes() const override { return out_features() * (in_features_ + 4); }
  const Int8Row& row(std::int64_t feature) const { return rows_[feature]; }

 private:
  std::int64_t in_features_;
  std::vector<Int8Row> rows_;
};

void linear(const LinearParams& params, const Int8Weight& weight);

}  // namespace winnow::reference
