#include "formats/dequantize.h"

#include <bit>
#include <cmath>

#include "support/format_testing.h"

namespace winnow {
namespace {

// Bit for bit, save that any NaN equals any other.
void expect_same_floats(std::span<const float> actual, std::span<const float> expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) && std::isnan(expected[i])) continue;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(actual[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << "element " << i << ": " << actual[i] << " instead of " << expected[i];
  }
}

struct Case {
  const char* file;
  DType dtype;
};

class DequantizeGolden : public testing::TestWithParam<Case> {};

TEST_P(DequantizeGolden, EqualsGgmlsReferenceBitForBit) {
  const std::string blocks = read_text(golden(std::string(GetParam().file) + ".blocks"));
  const std::string floats = read_text(golden(std::string(GetParam().file) + ".f32"));
  std::vector<float> expected(floats.size() / sizeof(float));
  ASSERT_FALSE(expected.empty());
  std::memcpy(expected.data(), floats.data(), floats.size());
  std::vector<float> actual(expected.size());
  dequantize(GetParam().dtype, bytes_of(blocks), actual);
  expect_same_floats(actual, expected);

  // The same from an odd address, block by block.
  const std::string shifted = "x" + blocks;
  const DTypeInfo info = dtype_info(GetParam().dtype);
  const auto data = bytes_of(shifted).subspan(1);
  std::fill(actual.begin(), actual.end(), 0.0f);
  for (std::size_t b = 0; b * info.block_elements < actual.size(); ++b) {
    dequantize(GetParam().dtype, data.subspan(b * info.block_bytes, info.block_bytes),
               std::span(actual).subspan(b * info.block_elements, info.block_elements));
  }
  expect_same_floats(actual, expected);
}

INSTANTIATE_TEST_SUITE_P(AllTypes, DequantizeGolden,
                         testing::Values(Case{"f16", DType::kF16}, Case{"bf16", DType::kBF16},
                                         Case{"q4_0", DType::kQ4_0}, Case{"q4_1", DType::kQ4_1},
                                         Case{"q5_0", DType::kQ5_0}, Case{"q5_1", DType::kQ5_1},
                                         Case{"q8_0", DType::kQ8_0}, Case{"iq4_nl", DType::kIQ4_NL},
                                         Case{"q2_k", DType::kQ2_K}, Case{"q3_k", DType::kQ3_K},
                                         Case{"q4_k", DType::kQ4_K}, Case{"q5_k", DType::kQ5_K},
                                         Case{"q6_k", DType::kQ6_K}, Case{"q8_k", DType::kQ8_K}),
                         [](const auto& instance) { return std::string(instance.param.file); });

TEST(Dequantize, EveryHalfEqualsTheScalarConversion) {
  std::vector<std::uint16_t> halves(65536);
  std::vector<float> expected(halves.size());
  for (std::size_t i = 0; i < halves.size(); ++i) {
    halves[i] = static_cast<std::uint16_t>(i);
    expected[i] = half_to_float(halves[i]);
  }
  std::vector<float> actual(halves.size());
  dequantize(DType::kF16, std::as_bytes(std::span(halves)), actual);
  expect_same_floats(actual, expected);
}

TEST(Dequantize, F32IsCopied) {
  const std::vector<float> values = {1.0f, -0.0f, INFINITY, 1e-42f, NAN};
  std::vector<float> out(values.size());
  dequantize(DType::kF32, std::as_bytes(std::span(values)), out);
  expect_same_floats(out, values);
}

TEST(Dequantize, NothingIsFine) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kQ4_0}) dequantize(dtype, {}, {});
}

}  // namespace
}  // namespace winnow
