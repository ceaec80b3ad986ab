#include "backends/cpu/kernels.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

constexpr std::int64_t kDims[] = {1, 2, 7, 15, 16, 17, 33, 64, 67, 100, 576, 1536, 4096};
constexpr std::int64_t kRows[] = {0, 1, 2, 3, 17, 33};

struct NormCase {
  NormKind kind;
  bool bias;
  DType y_dtype;
  bool accumulate = false;
};

void compare_with_reference(const NormCase& c, std::int64_t rows, std::int64_t dim) {
  SCOPED_TRACE(::testing::Message() << "dim " << dim << ", rows " << rows << ", bias " << c.bias << ", to "
                                    << name(c.y_dtype) << ", accumulate " << c.accumulate);
  const auto backend = make_reference_backend(Precision::kF32);
  const TestMatrix x(*backend, DType::kF32, rows, dim, random_floats(rows * dim, 1));
  const std::vector<float> weight = random_floats(dim, 2), bias = random_floats(dim, 3);
  const std::vector<float> before = random_floats(rows * dim, 4);  // what is accumulated to, or overwritten
  const TestMatrix expected(*backend, c.y_dtype, rows, dim, before);
  const TestMatrix actual(*backend, c.y_dtype, rows, dim, before);
  NormParams params{.kind = c.kind,
                    .x = x.view(),
                    .weight = weight.data(),
                    .y = expected.view(),
                    .accumulate = c.accumulate};
  if (c.bias) params.bias = bias.data();
  backend->norm(params);
  params.y = actual.view();
  // In two calls, as two threads would.
  cpu::norm_rows(params, 0, rows / 2);
  cpu::norm_rows(params, rows / 2, rows);
  // Two equal numbers have no spread, and LayerNorm of two close ones magnifies their rounding.
  const double magnification = c.kind == NormKind::kLayer && dim < 16 ? 20.0 : 1.0;
  expect_close(actual, expected, stored_as(c.y_dtype, {kNorm.absolute * magnification, kNorm.relative}));
}

TEST(Norm, KernelsAgreeWithTheReference) {
  for_each_target([] {
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
      for (const bool bias : {false, true}) {
        for (const DType dtype : {DType::kF32, DType::kBF16}) {
          for (const std::int64_t dim : kDims) {
            for (const std::int64_t rows : kRows) {
              compare_with_reference({kind, bias, dtype}, rows, dim);
              if (dtype == DType::kF32) compare_with_reference({kind, bias, dtype, true}, rows, dim);
            }
          }
        }
      }
    }
  });
}

TEST(Norm, AccumulatesByHand) {
  const auto backend = make_reference_backend(Precision::kF32);
  const TestMatrix x(*backend, DType::kF32, 1, 2, std::vector{3.0f, -4.0f}),
      y(*backend, DType::kF32, 1, 2, std::vector{10.0f, 20.0f});
  const std::vector<float> weight = {1.0f, 2.0f};
  // rms = sqrt(25 / 2)
  backend->norm({.x = x.view(), .weight = weight.data(), .epsilon = 0.0f, .y = y.view(), .accumulate = true});
  EXPECT_NEAR(y.floats()[0], 10.0f + 0.8485281f, 1e-5f);
  EXPECT_NEAR(y.floats()[1], 20.0f - 2.2627417f, 1e-5f);
}

// The variance must not be a difference of large numbers.
TEST(Norm, LayerNormOfLargeMean) {
  const auto backend = make_reference_backend(Precision::kF32);
  for_each_target([&] {
    constexpr std::int64_t kDim = 576;
    std::vector<float> values = random_floats(kDim, 1);
    for (float& value : values) value += 1000.0f;
    const TestMatrix x(*backend, DType::kF32, 1, kDim, values);
    const std::vector<float> weight(kDim, 1.0f);
    const TestMatrix expected(*backend, DType::kF32, 1, kDim), actual(*backend, DType::kF32, 1, kDim);
    NormParams params{.kind = NormKind::kLayer, .x = x.view(), .weight = weight.data(), .y = expected.view()};
    backend->norm(params);
    params.y = actual.view();
    cpu::norm_rows(params, 0, 1);
    // The mean itself is rounded: 2^-24 of 1000, a few times.
    expect_close(actual, expected, {5e-4, 1e-5});
  });
}

TEST(Norm, RowNormsAgreeWithTheReference) {
  const auto backend = make_reference_backend(Precision::kF32);
  for_each_target([&] {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const std::int64_t dim : kDims) {
        for (const std::int64_t rows : kRows) {
          SCOPED_TRACE(::testing::Message() << "dim " << dim << ", rows " << rows << ", " << name(dtype));
          const TestMatrix x(*backend, dtype, rows, dim, random_floats(rows * dim, 1));
          std::vector<float> expected(static_cast<std::size_t>(rows)), actual(static_cast<std::size_t>(rows));
          backend->row_norms(x.view(), expected);
          cpu::row_norms_range(x.view(), actual.data(), 0, rows / 2);
          cpu::row_norms_range(x.view(), actual.data(), rows / 2, rows);
          expect_close(actual, expected, kRowNorm);
        }
      }
    }
  });
}

TEST(Norm, BackendOnThreadsAgreesWithTheReference) {
  for (const Precision precision : kPrecisions) {
    for (const int threads : {1, 2, 3}) {
      const auto cpu = make_cpu_backend(precision, threads), reference = make_reference_backend(precision);
      for (const std::int64_t rows : kRows) {
        SCOPED_TRACE(::testing::Message() << name(precision) << ", threads " << threads << ", rows " << rows);
        const TestMatrix x(*cpu, DType::kF32, rows, 100, random_floats(rows * 100, 4));
        const std::vector<float> weight = random_floats(100, 5);
        const TestMatrix actual(*cpu, cpu->compute_dtype(), rows, 100);
        const TestMatrix expected(*cpu, cpu->compute_dtype(), rows, 100);
        cpu->norm({.x = x.view(), .weight = weight.data(), .y = actual.view()});
        reference->norm({.x = x.view(), .weight = weight.data(), .y = expected.view()});
        expect_close(actual, expected, stored_as(cpu->compute_dtype(), kNorm));
        std::vector<float> norms(static_cast<std::size_t>(rows)), expected_norms(norms.size());
        cpu->row_norms(x.view(), norms);
        reference->row_norms(x.view(), expected_norms);
        expect_close(norms, expected_norms, kRowNorm);
      }
    }
  }
}

}  // namespace
}  // namespace winnow::testing
