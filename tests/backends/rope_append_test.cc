#include "backends/cpu/kernels.h"
#include "backends/cpu/kv_layout.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

// A zeroed cache in the layout of the CPU backend.
LayerKv zeroed_cache(DType dtype, const HeadShape& shape, std::int64_t capacity) {
  LayerKv kv;
  kv.kv_heads = shape.kv_heads;
  kv.head_dim = shape.head_dim;
  kv.capacity = capacity;
  const std::int64_t bytes = shape.kv_heads * dtype_bytes(dtype, cpu::kv_layout(kv, dtype).head_elements());
  for (Buffer* buffer : {&kv.k, &kv.v}) {
    *buffer = Buffer::host(bytes);
    std::memset(buffer->as<>(), 0, static_cast<std::size_t>(bytes));
  }
  return kv;
}

float cached(const Buffer& buffer, DType dtype, std::int64_t index) {
  return dtype == DType::kBF16 ? to_float(buffer.as<BF16>()[index]) : buffer.as<float>()[index];
}

// Keys and values as [rows][kv_heads][head_dim].
std::vector<float> cached_rows(const LayerKv& kv, DType dtype, bool keys) {
  const cpu::KvLayout layout = cpu::kv_layout(kv, dtype);
  std::vector<float> result;
  for (std::int64_t row = 0; row < kv.rows; ++row) {
    for (std::int64_t head = 0; head < kv.kv_heads; ++head) {
      for (std::int64_t d = 0; d < kv.head_dim; ++d) {
        const std::int64_t index = keys ? layout.key_index(row, d) : layout.value_index(row, d);
        result.push_back(cached(keys ? kv.k : kv.v, dtype, head * layout.head_elements() + index));
      }
    }
  }
  return result;
}

// What lies behind kv.rows, and in the padding of odd dimensions, must stay zero.
std::int64_t nonzero_elements(const Buffer& buffer, DType dtype) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < buffer.bytes() / dtype_bytes(dtype, 1); ++i)
    count += cached(buffer, dtype, i) != 0.0f;
  return count;
}

// The reference's cache is [capacity][kv_heads][head_dim].
std::vector<float> reference_rows(const LayerKv& kv, DType dtype, const Buffer& buffer) {
  std::vector<float> result;
  for (std::int64_t i = 0; i < kv.rows * kv.kv_heads * kv.head_dim; ++i)
    result.push_back(cached(buffer, dtype, i));
  return result;
}

struct AppendCase {
  HeadShape shape;
  std::int64_t rotary_dim;
  bool norms = false;
};

// Appends in calls of `pieces` rows, each split as two threads would split it, and compares q, k and v with
// the reference.
void compare_with_reference(const AppendCase& c, Precision precision,
                            const std::vector<std::int64_t>& pieces) {
  SCOPED_TRACE(::testing::Message() << ::testing::PrintToString(c.shape) << ", rotary_dim " << c.rotary_dim
                                    << ", norms " << c.norms << ", " << name(precision) << ", pieces "
                                    << ::testing::PrintToString(pieces));
  const auto reference = make_reference_backend(precision);
  const DType dtype = reference->compute_dtype();
  const std::int64_t total = std::accumulate(pieces.begin(), pieces.end(), std::int64_t{0});
  const RopeTable rope = make_rope(*reference, 3 * total + 1, c.rotary_dim);
  const std::vector<float> q_norm = random_floats(c.shape.head_dim, 100),
                           k_norm = random_floats(c.shape.head_dim, 101);
  const Tolerance tolerance = stored_as(dtype, c.norms ? kNormedRope : kRope);
  LayerKv expected = make_kv(*reference, c.shape, total);
  LayerKv actual = zeroed_cache(dtype, c.shape, (total + 31) / 32 * 32);
  for (std::size_t piece = 0; piece < pieces.size(); ++piece) {
    const std::int64_t rows = pieces[piece];
    const TestMatrix qkv(*reference, dtype, rows, c.shape.qkv_cols(),
                         random_floats(rows * c.shape.qkv_cols(), static_cast<unsigned>(piece)));
    const TestMatrix q(*reference, dtype, rows, c.shape.q_cols()),
        expected_q(*reference, dtype, rows, c.shape.q_cols());
    std::vector<std::int32_t> positions;
    for (std::int64_t i = 0; i < rows; ++i)
      positions.push_back(static_cast<std::int32_t>(3 * (actual.rows + i)));
    RopeAppendParams params{
        .qkv = qkv.view(), .positions = positions, .rope = &rope, .q = expected_q.view(), .kv = &expected};
    if (c.norms) params.q_norm = q_norm.data(), params.k_norm = k_norm.data(), params.norm_epsilon = 1e-6f;
    reference->rope_append(params);
    params.q = q.view();
    params.kv = &actual;
    cpu::rope_append_rows(params, actual.rows, rows / 2, rows);
    cpu::rope_append_rows(params, actual.rows, 0, rows / 2);
    actual.rows += rows;
    expect_close(q, expected_q, tolerance);
  }
  expect_close(cached_rows(actual, dtype, true), reference_rows(expected, dtype, expected.k), tolerance);
  EXPECT_EQ(cached_rows(actual, dtype, false), reference_rows(expected, dtype, expected.v));
  EXPECT_LE(nonzero_elements(actual.k, dtype), total * c.shape.kv_heads * c.shape.head_dim);
  EXPECT_LE(nonzero_elements(actual.v, dtype), total * c.shape.kv_heads * c.shape.head_dim);
}

const AppendCase kCases[] = {
    {{1, 1, 1}, 0},           {{1, 1, 2}, 2},         {{2, 1, 7}, 6},        {{2, 2, 8}, 8},
    {{3, 3, 16}, 16},         {{4, 2, 17}, 10},       {{2, 1, 20}, 20},      {{9, 3, 64}, 64},
    {{9, 3, 64}, 0},          {{4, 1, 64}, 16},       {{2, 1, 67}, 66},      {{4, 2, 80}, 80},
    {{4, 2, 80}, 32},         {{2, 1, 128}, 128},     {{1, 1, 256}, 256},    {{1, 1, 2}, 2, true},
    {{4, 2, 17}, 10, true},   {{2, 1, 64}, 64, true}, {{2, 1, 67}, 0, true}, {{4, 2, 80}, 32, true},
    {{1, 1, 256}, 256, true},
};

TEST(RopeAppend, KernelsAgreeWithTheReference) {
  for_each_target([] {
    for (const Precision precision : kPrecisions) {
      for (const AppendCase& c : kCases) {
        for (const std::int64_t rows : {0, 1, 2, 3, 16, 17, 33}) compare_with_reference(c, precision, {rows});
      }
    }
  });
}

TEST(RopeAppend, RowsAppendedOverSeveralCalls) {
  for_each_target([] {
    for (const Precision precision : kPrecisions) {
      for (const AppendCase& c : kCases) {
        compare_with_reference(c, precision, {17, 1, 1, 1});
        compare_with_reference(c, precision, {1, 2, 30, 15, 1, 40});
      }
    }
  });
}

TEST(RopeAppend, NormsOfHeadsByHand) {
  const auto backend = make_reference_backend(Precision::kF32);
  const RopeTable none;
  LayerKv kv = make_kv(*backend, {1, 1, 2}, 1);
  const TestMatrix qkv(*backend, DType::kF32, 1, 6, std::vector{3.0f, 4.0f, 0.0f, -5.0f, 7.0f, 8.0f});
  const TestMatrix q(*backend, DType::kF32, 1, 2);
  const std::vector<float> q_norm = {1.0f, 2.0f}, k_norm = {1.0f, 3.0f};
  const std::int32_t position = 0;
  backend->rope_append({.qkv = qkv.view(),
                        .positions = {&position, 1},
                        .rope = &none,
                        .q = q.view(),
                        .kv = &kv,
                        .q_norm = q_norm.data(),
                        .k_norm = k_norm.data()});
  EXPECT_NEAR(q.floats()[0], 0.8485281f, 1e-6f);  // 3 / sqrt(25 / 2)
  EXPECT_NEAR(q.floats()[1], 2.2627417f, 1e-6f);
  EXPECT_NEAR(kv.k.as<float>()[1], -4.2426407f, 1e-6f);  // -5 / sqrt(25 / 2) * 3
  EXPECT_EQ(kv.v.as<float>()[0], 7.0f);
  EXPECT_EQ(kv.v.as<float>()[1], 8.0f);
}

// A single row goes out element by element, two rows interleaved: the bits must not depend on it.
TEST(RopeAppend, BackendGivesTheSameCacheInOneCallAndRowByRow) {
  const HeadShape shape{9, 3, 64};
  constexpr std::int64_t kRows = 37;
  const std::vector<float> qkv = random_floats(kRows * shape.qkv_cols(), 1);
  for (const Precision precision : kPrecisions) {
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(::testing::Message() << name(precision) << ", threads " << threads);
      const auto backend = make_cpu_backend(precision, threads);
      const RopeTable rope = make_rope(*backend, kRows, 64);
      LayerKv whole = make_kv(*backend, shape, kRows), single = make_kv(*backend, shape, kRows);
      const TestMatrix q = append(*backend, whole, rope, shape, qkv, 0);
      for (std::int64_t row = 0; row < kRows; ++row) {
        const std::span<const float> one(qkv.data() + row * shape.qkv_cols(), shape.qkv_cols());
        const TestMatrix q_row = append(*backend, single, rope, shape, one, static_cast<std::int32_t>(row));
        EXPECT_EQ(q_row.row_bits(0), q.row_bits(row));
      }
      EXPECT_EQ(single.rows, whole.rows);
      EXPECT_EQ(single.positions, whole.positions);
      EXPECT_EQ(0, std::memcmp(single.k.as<>(), whole.k.as<>(), static_cast<std::size_t>(whole.k.bytes())));
      EXPECT_EQ(0, std::memcmp(single.v.as<>(), whole.v.as<>(), static_cast<std::size_t>(whole.v.bytes())));
    }
  }
}

}  // namespace
}  // namespace winnow::testing
