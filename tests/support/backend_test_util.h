// What the tests of backends share: random data, matrices in backend memory, caches filled through
// rope_append, and the comparison with the reference.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/tile_kernels.h"
#include "hwy/highway.h"
#include "support/tolerances.h"

namespace winnow::testing {

constexpr Precision kPrecisions[] = {Precision::kF32, Precision::kBF16};

inline const char* name(Precision precision) { return precision_name(precision); }
inline const char* name(DType dtype) { return dtype == DType::kBF16 ? "bf16" : "f32"; }

// Runs body() once for every SIMD target that is compiled in and that the machine supports.
template <class Body>
void for_each_target(Body body) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
}

// The attention kernels that this machine runs for a precision and head dimension; the portable one comes
// last.
inline std::vector<const cpu::TileKernels*> tile_kernel_variants(Precision precision, std::int64_t head_dim) {
  if (precision == Precision::kF32) return {&cpu::portable_f32_tile_kernels()};
  std::vector<const cpu::TileKernels*> usable;
  for (const cpu::TileKernels* kernels :
       {cpu::amx_tile_kernels(), cpu::avx512_bf16_tile_kernels(), &cpu::portable_bf16_tile_kernels()}) {
    if (kernels != nullptr && head_dim % kernels->dim_multiple == 0) usable.push_back(kernels);
  }
  return usable;
}

// Normally distributed; the same for the same seed.
inline std::vector<float> random_floats(std::int64_t n, unsigned seed, float deviation = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(generator);
  return values;
}

// A matrix that owns its memory. Buffers have no slack, so that a sanitizer sees reads past the end.
class TestMatrix {
 public:
  TestMatrix(Backend& backend, DType dtype, std::int64_t rows, std::int64_t cols)
      : backend_(&backend),
        buffer_(backend.allocate(rows * dtype_bytes(dtype, cols))),
        view_{buffer_.as<>(), dtype, rows, cols} {
    const std::string poison(static_cast<std::size_t>(buffer_.bytes()), 0x5a);
    backend.upload(poison.data(), buffer_.as<>(), buffer_.bytes());
  }
  TestMatrix(Backend& backend, DType dtype, std::int64_t rows, std::int64_t cols,
             std::span<const float> values)
      : TestMatrix(backend, dtype, rows, cols) {
    if (values.empty()) return;  // nothing to copy, and no pointer to copy it from
    if (dtype == DType::kF32) {
      backend.upload(values.data(), buffer_.as<>(), buffer_.bytes());
      return;
    }
    std::vector<BF16> rounded;
    for (std::int64_t i = 0; i < rows * cols; ++i) rounded.push_back(to_bf16(values[i]));
    backend.upload(rounded.data(), buffer_.as<>(), buffer_.bytes());
  }

  const MatrixView& view() const { return view_; }
  std::vector<float> floats() const {
    std::vector<float> values(static_cast<std::size_t>(view_.rows * view_.cols));
    const std::string bits = row_bits(0, view_.rows);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = view_.dtype == DType::kBF16 ? to_float(reinterpret_cast<const BF16*>(bits.data())[i])
                                              : reinterpret_cast<const float*>(bits.data())[i];
    }
    return values;
  }
  bool same_bits(const TestMatrix& other) const {
    return row_bits(0, view_.rows) == other.row_bits(0, view_.rows);
  }
  std::string row_bits(std::int64_t row, std::int64_t count = 1) const {
    std::string bits(static_cast<std::size_t>(count * view_.row_bytes()), 0);
    backend_->download(view_.row<char>(row), bits.data(), std::ssize(bits));
    return bits;
  }

 private:
  Backend* backend_;
  Buffer buffer_;
  MatrixView view_;
};

// Floats in the backend's memory.
inline Buffer to_backend(Backend& backend, std::span<const float> values) {
  Buffer buffer = backend.allocate(std::ssize(values) * 4);
  if (!values.empty()) backend.upload(values.data(), buffer.as<>(), buffer.bytes());
  return buffer;
}

// Reports the first faults only.
inline void expect_close(std::span<const float> actual, std::span<const float> expected,
                         Tolerance tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  int faults = 0;
  for (std::size_t i = 0; i < actual.size() && faults < 5; ++i) {
    if (std::isnan(actual[i]) && std::isnan(expected[i])) continue;
    const double limit = tolerance.absolute + tolerance.relative * std::abs(double{expected[i]});
    const double error = std::abs(double{actual[i]} - double{expected[i]});
    if (error <= limit) continue;
    ++faults;
    ADD_FAILURE() << "element " << i << ": " << actual[i] << ", expected " << expected[i] << ", error "
                  << error << ", allowed " << limit;
  }
}
inline void expect_close(const TestMatrix& actual, const TestMatrix& expected, Tolerance tolerance) {
  expect_close(actual.floats(), expected.floats(), tolerance);
}

inline RopeTable make_rope(Backend& backend, std::int64_t positions, std::int64_t rotary_dim,
                           double theta = 10000.0) {
  const std::int64_t half = rotary_dim / 2;
  std::vector<float> cos, sin;
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim);
      const double angle = static_cast<double>(p) * std::pow(theta, exponent);
      cos.push_back(static_cast<float>(std::cos(angle)));
      sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return {to_backend(backend, cos), to_backend(backend, sin), positions, rotary_dim};
}

// Cache rows [first, first + count).
inline std::vector<std::int64_t> rows_from(std::int64_t first, std::int64_t count) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

// About one row in three from `first` on, as pruning leaves them, the last of `rows` included.
inline std::vector<std::int64_t> with_gaps(std::int64_t rows, std::int64_t first = 0) {
  std::vector<std::int64_t> result;
  for (std::int64_t row = first; row < rows - 1; row += 1 + row * 7 % 5) result.push_back(row);
  result.push_back(rows - 1);
  return result;
}

struct HeadShape {
  std::int64_t heads, kv_heads, head_dim;
  std::int64_t q_cols() const { return heads * head_dim; }
  std::int64_t qkv_cols() const { return (heads + 2 * kv_heads) * head_dim; }
};

inline void PrintTo(const HeadShape& shape, std::ostream* out) {
  *out << shape.heads << " heads, " << shape.kv_heads << " kv heads of " << shape.head_dim;
}

inline LayerKv make_kv(Backend& backend, const HeadShape& shape, std::int64_t capacity) {
  LayerKv kv;
  kv.kv_heads = shape.kv_heads;
  kv.head_dim = shape.head_dim;
  backend.reserve(kv, capacity);
  return kv;
}

// Appends rows at consecutive positions, starting at `position`; returns the rotated queries.
inline TestMatrix append(Backend& backend, LayerKv& kv, const RopeTable& rope, const HeadShape& shape,
                         std::span<const float> qkv, std::int32_t position) {
  const std::int64_t rows = static_cast<std::int64_t>(qkv.size()) / shape.qkv_cols();
  const TestMatrix x(backend, backend.compute_dtype(), rows, shape.qkv_cols(), qkv);
  TestMatrix q(backend, backend.compute_dtype(), rows, shape.q_cols());
  std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
  std::iota(positions.begin(), positions.end(), position);
  backend.rope_append({.qkv = x.view(), .positions = positions, .rope = &rope, .q = q.view(), .kv = &kv});
  return q;
}

// A cache of `rows` random rows without rotation; the same values in every backend.
struct FilledCache {
  LayerKv kv;
  RopeTable rope;

  FilledCache(Backend& backend, const HeadShape& shape, std::int64_t rows, unsigned seed = 7)
      : kv(make_kv(backend, shape, rows)) {
    append(backend, kv, rope, shape, random_floats(rows * shape.qkv_cols(), seed), 0);
  }
};

}  // namespace winnow::testing
