// Products on quantised weights as stored, against dequantised weights in double precision: every type, every
// kernel this machine runs, and the weight as the backend makes and uses it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/stored_kernels.h"
#include "backends/weight_forms.h"
#include "support/stored_matrix.h"

namespace winnow {
namespace {

using cpu::kGroupRows;
using cpu::QuantizedRow;
using cpu::StoredKernels;

constexpr DType kTypes[] = {DType::kQ4_0, DType::kQ4_1,   DType::kQ5_0, DType::kQ5_1,
                            DType::kQ8_0, DType::kIQ4_NL, DType::kQ4_K, DType::kQ6_K};

std::vector<const StoredKernels*> kernel_variants() {
  std::vector<const StoredKernels*> usable;
  for (const StoredKernels* kernels :
       {cpu::avx512_vnni_stored_kernels(), cpu::avx2_stored_kernels(), &cpu::portable_stored_kernels()}) {
    if (kernels != nullptr) usable.push_back(kernels);
  }
  return usable;
}

std::vector<float> random_row(std::int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

struct OwnedRow {
  std::unique_ptr<std::byte[]> memory;
  QuantizedRow row;
  OwnedRow(const StoredKernels& kernels, std::span<const float> x)
      : memory(new std::byte[static_cast<std::size_t>(
            QuantizedRow::bytes(static_cast<std::int64_t>(x.size())))]),
        row(QuantizedRow::in(memory.get(), static_cast<std::int64_t>(x.size()))) {
    kernels.quantize_f32(x.data(), static_cast<std::int64_t>(x.size()), row);
  }
};

TEST(StoredKernels, RoundActivationsToTheNearestStep) {
  std::vector<float> x = random_row(96, 3);
  std::fill(x.begin() + 32, x.begin() + 64, 0.0f);
  for (const StoredKernels* kernels : kernel_variants()) {
    SCOPED_TRACE(kernels->name);
    const OwnedRow quantized(*kernels, x);
    const QuantizedRow& row = quantized.row;
    for (std::int64_t b = 0; b < 3; ++b) {
      int sum = 0;
      for (std::int64_t i = 32 * b; i < 32 * b + 32; ++i) {
        EXPECT_NEAR(row.scales[b] * static_cast<float>(row.q[i]), x[i], 0.5001f * row.scales[b]);
        sum += row.q[i];
      }
      EXPECT_EQ(row.sums16[2 * b] + row.sums16[2 * b + 1], sum);
      EXPECT_FLOAT_EQ(row.scaled_sums[b], row.scales[b] * static_cast<float>(sum));
    }
    EXPECT_EQ(row.scales[1], 0.0f);
    EXPECT_EQ(row.q[40], 0);
  }
}

class StoredKernel : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, StoredKernel, testing::ValuesIn(kTypes), [](const auto& param_info) {
  return std::string(dtype_info(param_info.param).name);
});

// With the activations as rounded, all that is left is float32 rounding; against the true ones the error is
// bounded by half a step for each.
TEST_P(StoredKernel, MultipliesAsTheDequantisedWeights) {
  const cpu::BlockKind kind = cpu::block_kind(GetParam()).value();
  const std::int64_t block = block_shape(kind).columns;
  for (const std::int64_t blocks : {1, 2, 5}) {
    const StoredMatrix weight(GetParam(), kGroupRows, blocks * block, 11);
    std::vector<std::byte> group(static_cast<std::size_t>(blocks * block_shape(kind).bytes));
    for (const std::int64_t used : {std::int64_t{16}, std::int64_t{5}}) {
      cpu::arrange_group(GetParam(), used, weight.cols, weight.stored(0, used), group.data());
      for (const StoredKernels* kernels : kernel_variants()) {
        SCOPED_TRACE(testing::Message() << kernels->name << ", " << blocks << " blocks, " << used << " rows");
        std::vector<std::vector<float>> x;
        std::vector<OwnedRow> owned;
        std::vector<QuantizedRow> rows;
        for (unsigned i = 0; i < 7; ++i) {
          x.push_back(random_row(weight.cols, 20 + i));
          rows.push_back(owned.emplace_back(*kernels, x.back()).row);
        }
        float y[7][kGroupRows];
        kernels->multiply(kind, group.data(), blocks, rows, y);
        for (std::size_t i = 0; i < rows.size(); ++i) {
          float alone[1][kGroupRows];
          kernels->multiply(kind, group.data(), blocks, std::span(rows).subspan(i, 1), alone);
          for (std::int64_t lane = 0; lane < kGroupRows; ++lane) {
            EXPECT_EQ(alone[0][lane], y[i][lane]) << "another result beside other rows";
            double rounded = 0, exact = 0, terms = 0, steps = 0;
            for (std::int64_t c = 0; c < weight.cols && lane < used; ++c) {
              const double w = weight.values[static_cast<std::size_t>(lane * weight.cols + c)];
              const double scale = rows[i].scales[c / 32];
              rounded += w * scale * rows[i].q[c];
              exact += w * x[i][static_cast<std::size_t>(c)];
              // A minimum and an offset are summed apart: their size counts, not that of their sum.
              terms += (std::abs(w) + 64) * std::abs(scale * rows[i].q[c]);
              steps += std::abs(w) * scale * 0.5001;
            }
            EXPECT_NEAR(y[i][lane], rounded, 1e-6 * terms) << "row " << i << ", lane " << lane;
            EXPECT_NEAR(y[i][lane], exact, steps + 1e-6 * terms) << "row " << i << ", lane " << lane;
          }
        }
      }
    }
  }
}

// A weight of two parts of different types, neither a multiple of 16 rows.
TEST(StoredWeight, IsUsedWhereDecodingAsks) {
  constexpr std::int64_t kCols = 256;
  const StoredMatrix first(DType::kQ4_K, 37, kCols, 5), second(DType::kQ6_K, 20, kCols, 6);
  const std::int64_t out = first.rows + second.rows;
  std::vector<float> all = first.values;
  all.insert(all.end(), second.values.begin(), second.values.end());
  const RowReader reader = [&](std::int64_t begin, std::int64_t end, std::span<float> to) {
    std::copy(all.begin() + begin * kCols, all.begin() + end * kCols, to.begin());
  };
  std::vector<StoredRows> stored;
  for (const StoredMatrix* part : {&first, &second}) stored.push_back(part->part());
  const std::vector<float> bias = random_row(out, 8), before = random_row(70 * out, 9);
  for (const int threads : {1, 2, 3}) {
    const auto backend = make_cpu_backend(Precision::kBF16, threads);
    const auto weight = backend->pack_stored(out, kCols, reader, stored);
    ASSERT_TRUE(weight->has_decode_form());
    EXPECT_LT(weight->decode_bytes(), weight->bytes() / 3);
    const auto& forms = dynamic_cast<const WeightForms&>(*backend);
    EXPECT_EQ(weight->decode_bytes(), forms.decode_form_bytes(DType::kQ4_K, first.rows, kCols).value() +
                                          forms.decode_form_bytes(DType::kQ6_K, second.rows, kCols).value());
    EXPECT_FALSE(forms.decode_form_bytes(DType::kBF16, first.rows, kCols));
    for (const std::int64_t rows : {1, 3, 70}) {
      SCOPED_TRACE(testing::Message() << threads << " threads, " << rows << " rows");
      const std::vector<float> x = random_row(rows * kCols, 7);
      std::vector<BF16> narrow;
      for (const float value : x) narrow.push_back(to_bf16(value));
      std::vector<float> y(before.begin(), before.begin() + rows * out), again = y;
      std::vector<BF16> narrow_y(y.size());
      const MatrixView x_view{narrow.data(), DType::kBF16, rows, kCols};
      LinearParams params{.x = x_view,
                          .weight = weight.get(),
                          .bias = bias.data(),
                          .y = {y.data(), DType::kF32, rows, out},
                          .accumulate = true,
                          .decode = true};
      backend->linear(params);
      params.y.data = again.data();
      backend->together([&] { backend->linear(params); });
      EXPECT_EQ(y, again);
      params.y = {narrow_y.data(), DType::kBF16, rows, out};
      params.accumulate = false;
      backend->linear(params);
      for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t c = 0; c < out; ++c) {
          double exact = bias[c], steps = 0;
          for (std::int64_t k = 0; k < kCols; ++k) {
            const float* block = &x[static_cast<std::size_t>(i * kCols + k / 32 * 32)];
            float largest = 0;
            for (int j = 0; j < 32; ++j) largest = std::max(largest, std::abs(block[j]));
            const double w = all[static_cast<std::size_t>(c * kCols + k)];
            exact += w * to_float(narrow[i * kCols + k]);
            steps += std::abs(w) * largest * 1.01 / 254;
          }
          EXPECT_NEAR(y[i * out + c] - before[i * out + c], exact, steps + 1e-3);
          EXPECT_NEAR(to_float(narrow_y[i * out + c]), exact, steps + 1e-3 + std::abs(exact) / 128);
        }
      }
    }
  }
}

TEST(StoredWeight, OtherTypesAreDecodedFromThePackedForm) {
  constexpr std::int64_t kCols = 100, kOut = 75;
  const std::vector<float> values = random_row(kOut * kCols, 4);
  const RowReader reader = [&](std::int64_t begin, std::int64_t end, std::span<float> to) {
    std::copy(values.begin() + begin * kCols, values.begin() + end * kCols, to.begin());
  };
  const auto backend = make_cpu_backend(Precision::kBF16, 2);
  const auto weight = backend->pack(kOut, kCols, reader);
  if (!weight->has_decode_form()) GTEST_SKIP() << "this machine has no AVX512_BF16";
  EXPECT_EQ(weight->decode_bytes(), weight->bytes());
  const std::vector<float> x = random_row(9 * kCols, 7);
  std::vector<BF16> narrow;
  for (const float value : x) narrow.push_back(to_bf16(value));
  std::vector<float> y(9 * kOut), alone(kOut);
  backend->linear({.x = {narrow.data(), DType::kBF16, 9, kCols},
                   .weight = weight.get(),
                   .y = {y.data(), DType::kF32, 9, kOut},
                   .decode = true});
  for (std::int64_t i = 0; i < 9; ++i) {
    backend->linear({.x = {narrow.data() + i * kCols, DType::kBF16, 1, kCols},
                     .weight = weight.get(),
                     .y = {alone.data(), DType::kF32, 1, kOut},
                     .decode = true});
    for (std::int64_t c = 0; c < kOut; ++c) {
      EXPECT_EQ(alone[c], y[i * kOut + c]);
      double exact = 0;
      for (std::int64_t k = 0; k < kCols; ++k) {
        exact +=
            static_cast<double>(to_float(to_bf16(values[c * kCols + k]))) * to_float(narrow[i * kCols + k]);
      }
      EXPECT_NEAR(alone[c], exact, 1e-4);
    }
  }
}

}  // namespace
}  // namespace winnow
