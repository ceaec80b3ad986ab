// Growth and compaction of caches and of matrices, the same for every backend.
#include <cmath>

#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

struct BackendCase {
  const char* label;
  Precision precision;
  int threads;  // 0: the reference

  std::unique_ptr<Backend> make() const {
    return threads == 0 ? make_reference_backend(precision) : make_cpu_backend(precision, threads);
  }
};

void PrintTo(const BackendCase& c, std::ostream* out) { *out << c.label; }

class Kv : public ::testing::TestWithParam<BackendCase> {
 protected:
  std::unique_ptr<Backend> backend_ = GetParam().make();
  HeadShape shape_{4, 2, 20};

  // Rows of [q | k | v] at positions 5, 6, ...
  LayerKv filled(std::int64_t rows, std::int64_t capacity) {
    LayerKv kv = make_kv(*backend_, shape_, capacity);
    append(*backend_, kv, rope_, shape_, random_floats(rows * shape_.qkv_cols(), 1), 5);
    return kv;
  }

  // Attention of fixed queries at all rows: what a cache holds, seen through the ops.
  TestMatrix attend(const LayerKv& kv) {
    std::vector<std::int64_t> rows(static_cast<std::size_t>(kv.rows));
    std::iota(rows.begin(), rows.end(), std::int64_t{0});
    const DType dtype = backend_->compute_dtype();
    const TestMatrix q(*backend_, dtype, kv.rows, shape_.q_cols(),
                       random_floats(kv.rows * shape_.q_cols(), 2));
    TestMatrix out(*backend_, dtype, kv.rows, shape_.q_cols());
    backend_->attention({.q = q.view(), .query_rows = rows, .kv = &kv, .scale = 0.25f, .out = out.view()});
    return out;
  }

  RopeTable rope_ = make_rope(*backend_, 1000, 20);
};

INSTANTIATE_TEST_SUITE_P(Backends, Kv,
                         ::testing::Values(BackendCase{"reference_f32", Precision::kF32, 0},
                                           BackendCase{"reference_bf16", Precision::kBF16, 0},
                                           BackendCase{"cpu_f32_1", Precision::kF32, 1},
                                           BackendCase{"cpu_f32_3", Precision::kF32, 3},
                                           BackendCase{"cpu_bf16_1", Precision::kBF16, 1},
                                           BackendCase{"cpu_bf16_2", Precision::kBF16, 2},
                                           BackendCase{"cpu_bf16_3", Precision::kBF16, 3}),
                         [](const auto& param_info) { return std::string(param_info.param.label); });

TEST_P(Kv, ReserveHoldsTheBytesThatKvBytesTells) {
  for (const std::int64_t capacity : {1, 2, 31, 32, 33, 1000}) {
    const LayerKv kv = make_kv(*backend_, shape_, capacity);
    EXPECT_GE(kv.capacity, capacity);
    EXPECT_EQ(kv.rows, 0);
    EXPECT_EQ(kv.bytes(), backend_->kv_bytes(shape_.kv_heads, shape_.head_dim, capacity));
    EXPECT_GE(kv.bytes(),
              2 * capacity * dtype_bytes(backend_->compute_dtype(), shape_.kv_heads * shape_.head_dim));
  }
}

TEST_P(Kv, ReserveKeepsWhatIsCached) {
  for (const std::int64_t rows : {1, 2, 17, 32, 33}) {
    SCOPED_TRACE(rows);
    LayerKv kv = filled(rows, rows);
    const TestMatrix before = attend(kv);
    const std::vector<std::int32_t> positions = kv.positions;
    backend_->reserve(kv, 10 * rows + 100);
    EXPECT_GE(kv.capacity, 10 * rows + 100);
    EXPECT_EQ(kv.rows, rows);
    EXPECT_EQ(kv.positions, positions);
    EXPECT_TRUE(before.same_bits(attend(kv)));
  }
}

TEST_P(Kv, ReserveOfLessThanThereIsDoesNothing) {
  LayerKv kv = filled(17, 40);
  const std::int64_t capacity = kv.capacity, bytes = kv.bytes();
  backend_->reserve(kv, 3);
  EXPECT_EQ(kv.capacity, capacity);
  EXPECT_EQ(kv.bytes(), bytes);
  EXPECT_EQ(kv.rows, 17);
}

TEST_P(Kv, AppendRecordsPositions) {
  LayerKv kv = filled(3, 10);
  EXPECT_EQ(kv.positions, (std::vector<std::int32_t>{5, 6, 7}));
  append(*backend_, kv, rope_, shape_, random_floats(shape_.qkv_cols(), 9), 100);
  EXPECT_EQ(kv.rows, 4);
  EXPECT_EQ(kv.positions, (std::vector<std::int32_t>{5, 6, 7, 100}));
}

// A cache pruned to some rows equals one that only ever got those rows, at their old positions.
TEST_P(Kv, KeepRowsEqualsACacheOfTheKeptRowsOnly) {
  constexpr std::int64_t kRows = 70;
  const std::vector<float> qkv = random_floats(kRows * shape_.qkv_cols(), 1);
  const std::vector<std::vector<std::int64_t>> selections = {
      {0}, {69}, {1, 2}, {0, 15, 16, 17, 31, 32, 33, 69}, {3, 5, 7, 9, 11, 13, 64, 65, 66, 67, 68}};
  for (const auto& keep : selections) {
    SCOPED_TRACE(::testing::PrintToString(keep));
    LayerKv kv = filled(kRows, kRows);
    const std::int64_t bytes = kv.bytes();
    backend_->keep_rows(kv, keep);
    LayerKv expected = make_kv(*backend_, shape_, kRows);
    std::vector<std::int32_t> positions;
    for (const std::int64_t row : keep) {
      positions.push_back(static_cast<std::int32_t>(row + 5));
      const std::span<const float> values(qkv.data() + row * shape_.qkv_cols(), shape_.qkv_cols());
      append(*backend_, expected, rope_, shape_, values, positions.back());
    }
    EXPECT_EQ(kv.rows, static_cast<std::int64_t>(keep.size()));
    EXPECT_EQ(kv.positions, positions);
    EXPECT_LT(kv.bytes(), bytes);
    EXPECT_EQ(kv.bytes(), backend_->kv_bytes(shape_.kv_heads, shape_.head_dim, kv.rows));
    EXPECT_TRUE(attend(kv).same_bits(attend(expected)));
  }
}

TEST_P(Kv, APrunedCacheGrowsAgain) {
  LayerKv kv = filled(70, 70), expected = filled(70, 200);
  const std::vector<std::int64_t> keep = {2, 3, 40, 69};
  backend_->keep_rows(kv, keep);
  backend_->keep_rows(expected, keep);
  backend_->reserve(kv, 50);
  backend_->reserve(expected, 300);
  for (LayerKv* cache : {&kv, &expected}) {
    append(*backend_, *cache, rope_, shape_, random_floats(33 * shape_.qkv_cols(), 4), 75);
  }
  EXPECT_EQ(kv.rows, 37);
  EXPECT_EQ(kv.positions.size(), 37u);
  EXPECT_EQ(kv.positions[3], 74);
  EXPECT_EQ(kv.positions[4], 75);
  EXPECT_TRUE(attend(kv).same_bits(attend(expected)));
}

TEST_P(Kv, KeepRowsOfNothingAndOfEverything) {
  LayerKv kv = filled(33, 33);
  const TestMatrix before = attend(kv);
  std::vector<std::int64_t> all(33);
  std::iota(all.begin(), all.end(), std::int64_t{0});
  backend_->keep_rows(kv, all);
  EXPECT_TRUE(before.same_bits(attend(kv)));
  backend_->keep_rows(kv, std::vector<std::int64_t>{});
  EXPECT_EQ(kv.rows, 0);
  EXPECT_TRUE(kv.positions.empty());
  backend_->reserve(kv, 1);
  append(*backend_, kv, rope_, shape_, random_floats(shape_.qkv_cols(), 9), 0);
  EXPECT_EQ(kv.rows, 1);
}

TEST_P(Kv, KeepRowsOfAMatrixMovesRowsUp) {
  constexpr std::int64_t kCols = 67;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<float> values = random_floats(33 * kCols, 1);
    const TestMatrix original(*backend_, dtype, 33, kCols, values);
    for (const std::vector<std::int64_t>& keep :
         {std::vector<std::int64_t>{}, {0}, {32}, {0, 1, 2}, {1, 3, 17, 18, 32}}) {
      const TestMatrix x(*backend_, dtype, 33, kCols, values);
      backend_->keep_rows(x.view(), keep);
      for (std::size_t i = 0; i < keep.size(); ++i) {
        EXPECT_EQ(x.row_bits(static_cast<std::int64_t>(i)), original.row_bits(keep[i]));
      }
    }
  }
}

using KvDeathTest = Kv;
INSTANTIATE_TEST_SUITE_P(Backends, KvDeathTest,
                         ::testing::Values(BackendCase{"reference_f32", Precision::kF32, 0},
                                           BackendCase{"cpu_f32_1", Precision::kF32, 1}),
                         [](const auto& param_info) { return std::string(param_info.param.label); });

TEST_P(KvDeathTest, AppendBeyondTheCapacityAborts) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  LayerKv kv = make_kv(*backend_, shape_, 2);
  const std::vector<float> rows = random_floats((kv.capacity + 1) * shape_.qkv_cols(), 1);
  EXPECT_DEATH(append(*backend_, kv, rope_, shape_, rows, 0), "internal error");
}

}  // namespace
}  // namespace winnow::testing
