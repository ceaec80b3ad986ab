#include <bit>
#include <limits>

#include "backends/cpu/kernels.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

// Ties, the largest finite number (which rounds to infinity), subnormals, infinities and NaNs whose payload
// lies in the half that is dropped.
std::vector<float> hard_values() {
  std::vector<float> values;
  for (const std::uint32_t bits :
       {0x00000000u, 0x80000000u, 0x3f808000u, 0x3f818000u, 0x3f807fffu, 0x3f808001u, 0x7f7fffffu,
        0xff7fffffu, 0x7f800000u, 0xff800000u, 0x7f800001u, 0xff80ffffu, 0x7fc00000u, 0x7fffffffu,
        0xffffffffu, 0x00000001u, 0x00008000u, 0x00018000u, 0x807fffffu}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  return values;
}

void expect_same_as_scalar(const std::vector<float>& values) {
  const auto backend = make_reference_backend(Precision::kF32);
  const auto n = static_cast<std::int64_t>(values.size());
  const TestMatrix x(*backend, DType::kF32, 1, n, values), expected(*backend, DType::kBF16, 1, n, values);
  const TestMatrix narrow(*backend, DType::kBF16, 1, n), wide(*backend, DType::kF32, 1, n);
  cpu::convert_rows(x.view(), narrow.view(), 0, 1);
  EXPECT_TRUE(narrow.same_bits(expected)) << "size " << n;
  cpu::convert_rows(narrow.view(), wide.view(), 0, 1);
  const std::vector<float> floats = expected.floats();
  EXPECT_EQ(0, std::memcmp(floats.data(), wide.view().data, floats.size() * sizeof(float))) << "size " << n;
}

TEST(Convert, RoundsToNearestEvenBitForBit) {
  for_each_target([] {
    expect_same_as_scalar(hard_values());
    for (std::int64_t n : {1, 2, 7, 15, 16, 17, 31, 33, 64, 67, 576, 1536}) {
      expect_same_as_scalar(random_floats(n, static_cast<unsigned>(n), 100.0f));
    }
  });
}

TEST(Convert, EveryUpperHalfAndEveryTie) {
  std::vector<float> values;
  for (std::uint32_t upper = 0; upper < 0x10000u; ++upper) {
    for (const std::uint32_t lower : {0x0000u, 0x7fffu, 0x8000u, 0x8001u}) {
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  for_each_target([&] { expect_same_as_scalar(values); });
}

TEST(Convert, BackendsAgreeOnThreads) {
  const auto reference = make_reference_backend(Precision::kF32);
  for (const int threads : {1, 2, 3}) {
    const auto cpu = make_cpu_backend(Precision::kBF16, threads);
    for (const std::int64_t rows : {0, 1, 2, 3, 17, 33}) {
      SCOPED_TRACE(::testing::Message() << "threads " << threads << ", rows " << rows);
      const TestMatrix x(*cpu, DType::kF32, rows, 67, random_floats(rows * 67, 3));
      const TestMatrix actual(*cpu, DType::kBF16, rows, 67), expected(*cpu, DType::kBF16, rows, 67);
      cpu->convert(x.view(), actual.view());
      reference->convert(x.view(), expected.view());
      EXPECT_TRUE(actual.same_bits(expected));
      const TestMatrix wide(*cpu, DType::kF32, rows, 67);
      cpu->convert(actual.view(), wide.view());
      EXPECT_EQ(wide.floats(), expected.floats());
    }
  }
}

}  // namespace
}  // namespace winnow::testing
