// Matrix products of the CPU backend.
//
// Promised bit for bit: the same call twice. Row i alone and among other rows may go through different oneDNN
// kernels, so that is promised within the tolerance only.
#include <cmath>
#include <limits>

#include "backends/cpu/cpu_features.h"
#include "core/error.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

struct LinearCase {
  std::int64_t rows, in_features, out_features;
  bool bias = false, accumulate = false;
  DType y_dtype = DType::kF32;
};

std::unique_ptr<Weight> random_weight(Backend& backend, std::int64_t out_features, std::int64_t in_features) {
  const auto values =
      random_floats(out_features * in_features, 11, 1.0f / std::sqrt(static_cast<float>(in_features)));
  return backend.pack(
      out_features, in_features, [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
        ASSERT_EQ(static_cast<std::int64_t>(out.size()), (end - begin) * in_features);
        std::copy(values.begin() + begin * in_features, values.begin() + end * in_features, out.begin());
      });
}

TestMatrix product(Backend& backend, const LinearCase& c, const Weight& weight) {
  const TestMatrix x(backend, backend.compute_dtype(), c.rows, c.in_features,
                     random_floats(c.rows * c.in_features, 12));
  const std::vector<float> bias = random_floats(c.out_features, 13);
  TestMatrix y(backend, c.y_dtype, c.rows, c.out_features, random_floats(c.rows * c.out_features, 14));
  backend.linear({.x = x.view(),
                  .weight = &weight,
                  .bias = c.bias ? bias.data() : nullptr,
                  .y = y.view(),
                  .accumulate = c.accumulate});
  return y;
}

class Linear : public ::testing::TestWithParam<std::tuple<Precision, int>> {
 protected:
  void SetUp() override {
    if (precision() == Precision::kInt8 && !cpu::has_avx512_vnni()) GTEST_SKIP() << "needs AVX512-VNNI";
    cpu_ = make_cpu_backend(precision(), std::get<1>(GetParam()));
  }
  Precision precision() const { return std::get<0>(GetParam()); }

  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Backend> reference_ = make_reference_backend(std::get<0>(GetParam()));

  void compare(const LinearCase& c, const Weight& weight, const Weight& expected_weight) {
    SCOPED_TRACE(::testing::Message()
                 << "rows " << c.rows << ", in " << c.in_features << ", out " << c.out_features << ", bias "
                 << c.bias << ", accumulate " << c.accumulate << ", to " << name(c.y_dtype));
    const TestMatrix y = product(*cpu_, c, weight);
    expect_close(y, product(*reference_, c, expected_weight), stored_as(c.y_dtype, kLinear));
    EXPECT_TRUE(y.same_bits(product(*cpu_, c, weight))) << "the second call gave other bits";
  }
};

INSTANTIATE_TEST_SUITE_P(Cpu, Linear,
                         ::testing::Combine(::testing::Values(Precision::kF32, Precision::kBF16,
                                                              Precision::kInt8),
                                            ::testing::Values(1, 2, 3)),
                         [](const auto& param_info) {
                           return std::string(precision_name(std::get<0>(param_info.param))) + "_" +
                                  std::to_string(std::get<1>(param_info.param)) + "threads";
                         });

TEST_P(Linear, AgreesWithTheReference) {
  for (const auto& [in, out] :
       {std::pair{1, 1}, {7, 33}, {33, 7}, {64, 100}, {100, 64}, {64, 576}, {576, 67}, {100, 33}}) {
    const auto weight = random_weight(*cpu_, out, in), expected = random_weight(*reference_, out, in);
    EXPECT_EQ(weight->out_features(), out);
    EXPECT_EQ(weight->in_features(), in);
    const std::int64_t element = precision() == Precision::kInt8 ? 1 : dtype_bytes(cpu_->compute_dtype(), 1);
    EXPECT_GE(weight->bytes(), element * in * out);
    for (const std::int64_t rows : {0, 1, 2, 3, 17, 64, 129}) {
      for (const bool bias : {false, true}) {
        compare({rows, in, out, bias, false, DType::kF32}, *weight, *expected);
        compare({rows, in, out, bias, true, DType::kF32}, *weight, *expected);
        compare({rows, in, out, bias, false, cpu_->compute_dtype()}, *weight, *expected);
      }
    }
  }
}

TEST_P(Linear, PacksAWeightThatIsReadInSlabs) {
  const std::int64_t out = 10007, in = 16;
  const auto weight = random_weight(*cpu_, out, in), expected = random_weight(*reference_, out, in);
  compare({3, in, out}, *weight, *expected);
}

TEST_P(Linear, ARowDoesNotDependOnTheOthersBeyondRounding) {
  constexpr std::int64_t kRows = 129, kIn = 100, kOut = 64;
  const auto weight = random_weight(*cpu_, kOut, kIn);
  const TestMatrix x(*cpu_, cpu_->compute_dtype(), kRows, kIn, random_floats(kRows * kIn, 1));
  const TestMatrix all(*cpu_, DType::kF32, kRows, kOut), some(*cpu_, DType::kF32, kRows, kOut);
  cpu_->linear({.x = x.view(), .weight = weight.get(), .y = all.view()});
  for (std::int64_t begin = 0, count = 1; begin < kRows; begin += count, count = begin % 20 + 1) {
    count = std::min(count, kRows - begin);
    cpu_->linear(
        {.x = x.view().slice(begin, count), .weight = weight.get(), .y = some.view().slice(begin, count)});
  }
  expect_close(some, all, kLinear);
}

class Int8Linear : public Linear {};

INSTANTIATE_TEST_SUITE_P(Cpu, Int8Linear,
                         ::testing::Combine(::testing::Values(Precision::kInt8), ::testing::Values(1, 2, 3)));

// The two sum the same integers, so nothing but the last rounding can differ.
TEST_P(Int8Linear, SumsAreThoseOfTheExactIntegers) {
  constexpr std::int64_t kRows = 70, kIn = 300, kOut = 130;
  const auto weight = random_weight(*cpu_, kOut, kIn),
             expected_weight = random_weight(*reference_, kOut, kIn);
  // Rows of very different sizes, as activations have: each has its own scale.
  std::vector<float> values = random_floats(kRows * kIn, 3);
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t i = 0; i < kIn; ++i) values[r * kIn + i] *= std::ldexp(1.0f, static_cast<int>(r) - 35);
  }
  std::fill_n(values.begin() + 7 * kIn, kIn, 0.0f);
  const TestMatrix x(*cpu_, DType::kBF16, kRows, kIn, values);
  const TestMatrix y(*cpu_, DType::kF32, kRows, kOut), expected(*reference_, DType::kF32, kRows, kOut);
  cpu_->linear({.x = x.view(), .weight = weight.get(), .y = y.view()});
  reference_->linear({.x = x.view(), .weight = expected_weight.get(), .y = expected.view()});
  const std::vector<float> found = y.floats(), wanted = expected.floats();
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], wanted[i], 3e-7 * std::abs(wanted[i])) << i;
  }
  EXPECT_EQ(found[7 * kOut], 0.0f);
}

TEST_P(Int8Linear, RowsThatAreNotFiniteStayNotFinite) {
  const auto weight = random_weight(*cpu_, 20, 40);
  std::vector<float> values = random_floats(3 * 40, 3);
  values[40 + 39] = std::numeric_limits<float>::infinity();
  values[80] = std::numeric_limits<float>::quiet_NaN();
  const TestMatrix x(*cpu_, DType::kBF16, 3, 40, values), y(*cpu_, DType::kF32, 3, 20);
  cpu_->linear({.x = x.view(), .weight = weight.get(), .y = y.view()});
  const std::vector<float> found = y.floats();
  EXPECT_TRUE(std::isfinite(found[0]) && std::isnan(found[20]) && std::isnan(found[40]));
}

TEST_P(Int8Linear, RefusesWeightsWithoutAScale) {
  const auto reader = [](std::int64_t, std::int64_t, std::span<float> out) {
    std::fill(out.begin(), out.end(), std::numeric_limits<float>::infinity());
  };
  EXPECT_THROW(cpu_->pack(2, 8, reader), Error);
  EXPECT_THROW(reference_->pack(2, 8, reader), Error);
}

}  // namespace
}  // namespace winnow::testing
