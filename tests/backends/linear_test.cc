// Matrix products of the CPU backend.
//
// Promised bit for bit: the same call twice. Row i alone and among other rows may go through different oneDNN
// kernels, so that is promised within the tolerance only.
#include <cmath>

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
  std::unique_ptr<Backend> cpu_ = make_cpu_backend(std::get<0>(GetParam()), std::get<1>(GetParam()));
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
                         ::testing::Combine(::testing::ValuesIn(kPrecisions), ::testing::Values(1, 2, 3)),
                         [](const auto& param_info) {
                           return std::string(name(std::get<0>(param_info.param))) + "_" +
                                  std::to_string(std::get<1>(param_info.param)) + "threads";
                         });

TEST_P(Linear, AgreesWithTheReference) {
  for (const auto& [in, out] :
       {std::pair{1, 1}, {7, 33}, {33, 7}, {64, 100}, {100, 64}, {64, 576}, {576, 67}, {100, 33}}) {
    const auto weight = random_weight(*cpu_, out, in), expected = random_weight(*reference_, out, in);
    EXPECT_EQ(weight->out_features(), out);
    EXPECT_EQ(weight->in_features(), in);
    EXPECT_GE(weight->bytes(), dtype_bytes(cpu_->compute_dtype(), in * out));
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

}  // namespace
}  // namespace winnow::testing
