#include "backends/cpu/kernels.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

constexpr ActivationKind kKinds[] = {ActivationKind::kSiluGated, ActivationKind::kGeluTanh,
                                     ActivationKind::kGeluErf, ActivationKind::kGeluTanhGated};
constexpr std::int64_t kDims[] = {1, 2, 7, 15, 16, 17, 33, 64, 67, 576, 1536};

Tolerance tolerance(ActivationKind kind, DType dtype) {
  return stored_as(dtype, kind == ActivationKind::kGeluErf ? kGeluErf : kActivation);
}

std::int64_t inputs(ActivationKind kind, std::int64_t dim) { return is_gated(kind) ? 2 * dim : dim; }

void compare_with_reference(ActivationKind kind, DType dtype, std::int64_t rows, std::int64_t dim,
                            const std::vector<float>& values) {
  SCOPED_TRACE(::testing::Message() << "kind " << static_cast<int>(kind) << ", dim " << dim << ", rows "
                                    << rows << ", " << name(dtype));
  const auto backend = make_reference_backend(Precision::kF32);
  const TestMatrix x(*backend, dtype, rows, inputs(kind, dim), values);
  const TestMatrix expected(*backend, dtype, rows, dim), actual(*backend, dtype, rows, dim);
  backend->activation({.kind = kind, .x = x.view(), .y = expected.view()});
  cpu::activation_rows({.kind = kind, .x = x.view(), .y = actual.view()}, 0, rows / 2);
  cpu::activation_rows({.kind = kind, .x = x.view(), .y = actual.view()}, rows / 2, rows);
  expect_close(actual, expected, tolerance(kind, dtype));
  if (is_gated(kind)) return;
  cpu::activation_rows({.kind = kind, .x = x.view(), .y = x.view()}, 0, rows);  // in place
  EXPECT_TRUE(x.same_bits(actual));
}

TEST(Activation, KernelsAgreeWithTheReference) {
  for_each_target([] {
    for (const ActivationKind kind : kKinds) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        for (const std::int64_t dim : kDims) {
          for (const std::int64_t rows : {0, 1, 2, 3, 17, 33}) {
            compare_with_reference(kind, dtype, rows, dim, random_floats(rows * inputs(kind, dim), 1, 3.0f));
          }
        }
      }
    }
  });
}

TEST(Activation, GatedGeluByHand) {
  const auto backend = make_reference_backend(Precision::kF32);
  // torch.nn.functional.gelu([1, -0.5], approximate="tanh") times 2 and -4
  const TestMatrix x(*backend, DType::kF32, 1, 4, std::vector{1.0f, -0.5f, 2.0f, -4.0f});
  const TestMatrix y(*backend, DType::kF32, 1, 2);
  backend->activation({.kind = ActivationKind::kGeluTanhGated, .x = x.view(), .y = y.view()});
  EXPECT_NEAR(y.floats()[0], 1.6823840f, 1e-6f);
  EXPECT_NEAR(y.floats()[1], 0.6171440f, 1e-6f);
}

TEST(Activation, KernelsAgreeOnAGridFromMinus20To20) {
  constexpr std::int64_t kDim = 4001;
  std::vector<float> values(2 * kDim, 1.0f);  // the gate's partner is 1
  for (std::int64_t i = 0; i < kDim; ++i) values[i] = static_cast<float>(i - kDim / 2) / 100.0f;
  for_each_target([&] {
    for (const ActivationKind kind : kKinds) compare_with_reference(kind, DType::kF32, 1, kDim, values);
  });
}

TEST(Activation, KernelsKeepLargeValuesAndNans) {
  constexpr float kLarge = 1e30f;
  const auto backend = make_reference_backend(Precision::kF32);
  for_each_target([&] {
    for (const ActivationKind kind : kKinds) {
      SCOPED_TRACE(static_cast<int>(kind));
      const std::vector<float> values = {kLarge, -kLarge, 100.0f, -100.0f, NAN, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
      const TestMatrix x(*backend, DType::kF32, 1, inputs(kind, 5), values), y(*backend, DType::kF32, 1, 5);
      cpu::activation_rows({.kind = kind, .x = x.view(), .y = y.view()}, 0, 1);
      const std::vector<float> result = y.floats();
      EXPECT_FLOAT_EQ(result[0], kLarge);
      EXPECT_NEAR(result[1] / kLarge, 0.0f, 1e-30f);
      EXPECT_FLOAT_EQ(result[2], 100.0f);
      EXPECT_NEAR(result[3], 0.0f, 1e-30f);
      EXPECT_TRUE(std::isnan(result[4]));
    }
  });
}

TEST(Activation, BackendOnThreadsAgreesWithTheReference) {
  for (const Precision precision : kPrecisions) {
    for (const int threads : {1, 2, 3}) {
      const auto cpu = make_cpu_backend(precision, threads), reference = make_reference_backend(precision);
      for (const std::int64_t rows : {0, 1, 2, 3, 17}) {
        SCOPED_TRACE(::testing::Message() << name(precision) << ", threads " << threads << ", rows " << rows);
        const TestMatrix x(*cpu, cpu->compute_dtype(), rows, 200, random_floats(rows * 200, 4));
        const TestMatrix actual(*cpu, cpu->compute_dtype(), rows, 100);
        const TestMatrix expected(*cpu, cpu->compute_dtype(), rows, 100);
        cpu->activation({.x = x.view(), .y = actual.view()});
        reference->activation({.x = x.view(), .y = expected.view()});
        expect_close(actual, expected, tolerance(ActivationKind::kSiluGated, cpu->compute_dtype()));
      }
    }
  }
}

}  // namespace
}  // namespace winnow::testing
