// Attention over a BlockPlan: the reference against values worked out by hand, the CPU backend's kernels
// against the reference.
//
// Promised bit for bit: a plan that lists everything gives what no plan gives; the same call twice, and any
// number of threads.
#include <cmath>

#include "backends/cpu/attention.h"
#include "backends/cpu/plan_attention.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

struct BlockShape {
  std::int64_t q_block, k_block;
};

// Lists each causal block with probability `density`; rows of the plan may be empty.
BlockPlan random_plan(BlockShape shape, std::int64_t heads, std::span<const std::int64_t> query_rows,
                      double density, unsigned seed) {
  const BlockPlan full = full_plan(shape.q_block, shape.k_block, heads, query_rows);
  std::mt19937 generator(seed);
  std::bernoulli_distribution chosen(density);
  BlockPlan plan{.q_block = shape.q_block,
                 .k_block = shape.k_block,
                 .heads = heads,
                 .query_blocks = full.query_blocks,
                 .offsets = {0},
                 .blocks = {},
                 .held = nullptr,
                 .means = nullptr};
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t block = 0; block < full.query_blocks; ++block) {
      for (const std::int32_t listed : full.row(head, block)) {
        if (chosen(generator)) plan.blocks.push_back(listed);
      }
      plan.offsets.push_back(static_cast<std::int64_t>(plan.blocks.size()));
    }
  }
  return plan;
}

// One layer's cache and queries at some of its rows, in a backend.
class Layer {
 public:
  Layer(std::unique_ptr<Backend> backend, const HeadShape& shape, std::int64_t cache_rows,
        std::vector<std::int64_t> query_rows, float deviation = 3.0f)
      : backend_(std::move(backend)),
        shape_(shape),
        query_rows_(std::move(query_rows)),
        cache_(*backend_, shape, cache_rows),
        q_(*backend_, backend_->compute_dtype(), queries(), shape.q_cols(),
           random_floats(queries() * shape.q_cols(), 5, deviation)) {}

  std::int64_t queries() const { return static_cast<std::int64_t>(query_rows_.size()); }
  std::span<const std::int64_t> query_rows() const { return query_rows_; }
  const HeadShape& shape() const { return shape_; }
  Backend& backend() const { return *backend_; }

  // Random rows in the place of means.
  std::shared_ptr<const LayerKv> means(std::int64_t k_block) const {
    FilledCache means(*backend_, shape_, cache_.kv.rows / k_block + 1, 11);
    return std::make_shared<LayerKv>(std::move(means.kv));
  }

  template <class Attend>
  TestMatrix run(const BlockPlan* plan, Attend attend) const {
    TestMatrix out(*backend_, backend_->compute_dtype(), queries(), shape_.q_cols());
    attend(AttentionParams{.q = q_.view(),
                           .query_rows = query_rows_,
                           .kv = &cache_.kv,
                           .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                           .out = out.view(),
                           .plan = plan});
    return out;
  }
  TestMatrix run(const BlockPlan* plan) const {
    return run(plan, [&](const AttentionParams& params) { backend_->attention(params); });
  }
  TestMatrix run(const BlockPlan* plan, const cpu::TileKernels& kernels, int threads) const {
    return run(plan, [&](const AttentionParams& params) { cpu::attention(params, kernels, threads); });
  }

 private:
  std::unique_ptr<Backend> backend_;
  HeadShape shape_;
  std::vector<std::int64_t> query_rows_;
  FilledCache cache_;
  TestMatrix q_;
};

// The same layer in the CPU backend and the reference.
class Problem {
 public:
  Problem(Precision precision, const HeadShape& shape, std::int64_t cache_rows,
          const std::vector<std::int64_t>& query_rows, float deviation = 3.0f)
      : precision_(precision),
        cpu_(make_cpu_backend(precision, 1), shape, cache_rows, query_rows, deviation),
        reference_(make_reference_backend(precision), shape, cache_rows, query_rows, deviation) {}

  const Layer& cpu() const { return cpu_; }
  std::span<const std::int64_t> query_rows() const { return cpu_.query_rows(); }
  BlockPlan plan(BlockShape shape, std::int64_t heads, double density) const {
    return random_plan(shape, heads, query_rows(), density, 17);
  }
  Tolerance tolerance() const { return precision_ == Precision::kBF16 ? kAttentionBf16 : kAttentionF32; }

  TestMatrix expected(BlockPlan plan, bool means = false) const {
    if (means) plan.means = reference_.means(plan.k_block);
    return reference_.run(&plan);
  }

  // Every kernel of the machine, and on each 1, 2 and 3 threads.
  void compare(BlockPlan plan, bool means = false) const {
    const HeadShape& shape = cpu_.shape();
    SCOPED_TRACE(::testing::Message()
                 << ::testing::PrintToString(shape) << ", " << cpu_.queries() << " queries from row "
                 << query_rows().front() << ", blocks of " << plan.q_block << " x " << plan.k_block
                 << ", plan heads " << plan.heads << (means ? ", means" : "") << ", " << name(precision_));
    const TestMatrix correct = expected(plan, means);
    if (means) plan.means = cpu_.means(plan.k_block);
    for (const cpu::TileKernels* kernels : tile_kernel_variants(precision_, shape.head_dim)) {
      SCOPED_TRACE(kernels->name);
      const TestMatrix out = cpu_.run(&plan, *kernels, 1);
      expect_close(out, correct, tolerance());
      for (const int threads : {1, 2, 3}) {
        EXPECT_TRUE(out.same_bits(cpu_.run(&plan, *kernels, threads))) << threads << " threads: other bits";
      }
    }
  }

 private:
  Precision precision_;
  Layer cpu_, reference_;
};

constexpr BlockShape kBlockShapes[] = {{16, 16}, {32, 16},   {32, 32}, {64, 16}, {64, 64}, {48, 80},
                                       {16, 64}, {128, 128}, {1, 4},   {1, 16},  {25, 7},  {16, 8}};

class SparseAttention : public ::testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Cpu, SparseAttention, ::testing::ValuesIn(kPrecisions),
                         [](const auto& param_info) { return std::string(name(param_info.param)); });

// Queries of zero weigh all they see alike.
TEST_P(SparseAttention, TheReferenceAveragesWhatIsListed) {
  const HeadShape shape{1, 1, 1};
  const auto backend = make_reference_backend(GetParam());
  LayerKv kv = make_kv(*backend, shape, 8);
  // Values 1, 2, 4, ..., 128; keys differ and do not matter.
  std::vector<float> qkv;
  for (int row = 0; row < 8; ++row)
    qkv.insert(qkv.end(), {0.0f, static_cast<float>(row), std::exp2f(static_cast<float>(row))});
  const TestMatrix q = append(*backend, kv, {}, shape, qkv, 0);
  const std::vector<std::int64_t> rows = rows_from(0, 8);
  BlockPlan plan{.q_block = 4,
                 .k_block = 2,
                 .heads = 1,
                 .query_blocks = 2,
                 .offsets = {0, 1, 3},
                 .blocks = {1, 0, 2},
                 .held = nullptr,
                 .means = nullptr};
  const auto attend = [&] {
    const TestMatrix out(*backend, backend->compute_dtype(), 8, 1);
    backend->attention(
        {.q = q.view(), .query_rows = rows, .kv = &kv, .scale = 1, .out = out.view(), .plan = &plan});
    return out.floats();
  };
  // Rows 0 and 1 see nothing of block 1. Rows 4 to 7 see block 0 and what of block 2 is not behind them.
  expect_close(attend(), std::vector<float>{0, 0, 4, 6, 19.0f / 3, 51.0f / 4, 51.0f / 4, 51.0f / 4},
               stored_as(backend->compute_dtype(), {0, 1e-6}));

  // The mean of block 1, 6, enters twice for rows 4 to 7; block 0 is not wholly before rows 0 to 3. Block 3
  // is never before its query block.
  auto means = std::make_shared<LayerKv>(make_kv(*backend, shape, 4));
  append(*backend, *means, {}, shape, std::vector<float>{0, 0, 1.5f, 0, 9, 6, 0, 0, 24, 0, 0, 96}, 0);
  plan.means = means;
  expect_close(attend(), std::vector<float>{0, 0, 4, 6, 31.0f / 5, 63.0f / 6, 63.0f / 6, 63.0f / 6},
               stored_as(backend->compute_dtype(), {0, 1e-6}));
}

// Leaving keys out is the same as a cache without them.
TEST_P(SparseAttention, TheReferenceEqualsACacheWithoutTheOtherBlocks) {
  const HeadShape shape{2, 1, 8};
  const auto backend = make_reference_backend(GetParam());
  const std::vector<float> qkv = random_floats(12 * shape.qkv_cols(), 3);
  LayerKv all = make_kv(*backend, shape, 12), some = make_kv(*backend, shape, 12);
  const TestMatrix q = append(*backend, all, {}, shape, qkv, 0);
  for (const std::int64_t row : {0, 1, 2, 6, 7, 8, 9, 10, 11}) {  // without block 1 of three rows
    append(*backend, some, {}, shape, std::span(qkv).subspan(row * shape.qkv_cols(), shape.qkv_cols()), 0);
  }
  const BlockPlan plan{.q_block = 6,
                       .k_block = 3,
                       .heads = 1,
                       .query_blocks = 1,
                       .offsets = {0, 3},
                       .blocks = {0, 2, 3},
                       .held = nullptr,
                       .means = nullptr};
  const TestMatrix out(*backend, backend->compute_dtype(), 6, shape.q_cols());
  const TestMatrix expected(*backend, backend->compute_dtype(), 6, shape.q_cols());
  const MatrixView queries = q.view().slice(6, 6);
  backend->attention(
      {.q = queries, .query_rows = rows_from(6, 6), .kv = &all, .out = out.view(), .plan = &plan});
  backend->attention({.q = queries, .query_rows = rows_from(3, 6), .kv = &some, .out = expected.view()});
  EXPECT_TRUE(out.same_bits(expected));
}

TEST_P(SparseAttention, EveryBlockShape) {
  const Problem whole(GetParam(), {3, 1, 64}, 301, rows_from(0, 301));
  const Problem second_turn(GetParam(), {3, 1, 64}, 221, rows_from(37, 184));
  const Problem pruned(GetParam(), {3, 1, 64}, 301, with_gaps(301, 3));
  for (const BlockShape shape : kBlockShapes) {
    for (const std::int64_t heads : {1, 3}) {
      whole.compare(whole.plan(shape, heads, 0.3));
      second_turn.compare(second_turn.plan(shape, heads, 0.3));
      pruned.compare(pruned.plan(shape, heads, 0.3));
    }
  }
}

TEST_P(SparseAttention, MeansOfSkippedBlocks) {
  const Problem whole(GetParam(), {3, 1, 64}, 301, rows_from(0, 301));
  const Problem pruned(GetParam(), {3, 1, 64}, 301, with_gaps(301, 3));
  for (const BlockShape shape : kBlockShapes) {
    for (const std::int64_t heads : {1, 3}) {
      whole.compare(whole.plan(shape, heads, 0.3), true);
      pruned.compare(pruned.plan(shape, heads, 0.3), true);
    }
  }
}

TEST_P(SparseAttention, EveryHeadShape) {
  for (const std::int64_t head_dim : {20, 64, 80, 96, 128, 256}) {
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {4, 1}, {7, 1}, {9, 3}}) {
      const Problem problem(GetParam(), {heads, kv_heads, head_dim}, 150, rows_from(81, 69));
      for (const BlockShape shape : {BlockShape{16, 16}, {32, 32}, {25, 7}}) {
        problem.compare(problem.plan(shape, heads, 0.4), true);
        problem.compare(problem.plan(shape, kv_heads, 0.4));
      }
    }
  }
}

TEST_P(SparseAttention, LengthsAroundABlock) {
  for (const std::int64_t rows : {1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 65}) {
    const Problem problem(GetParam(), {3, 1, 64}, rows, rows_from(0, rows));
    for (const BlockShape shape : kBlockShapes) {
      problem.compare(problem.plan(shape, 3, 0.6));
      problem.compare(problem.plan(shape, 3, 0.2), true);
    }
  }
}

TEST_P(SparseAttention, OneQuery) {
  for (const std::int64_t rows : {1, 100, 600}) {
    const Problem problem(GetParam(), {9, 3, 64}, rows, {rows - 1});
    for (const BlockShape shape : {BlockShape{16, 16}, {32, 32}, {128, 128}, {1, 4}}) {
      for (const std::int64_t heads : {3, 9}) {
        problem.compare(problem.plan(shape, heads, 0.3));
        problem.compare(problem.plan(shape, heads, 0.3), true);
      }
    }
  }
}

// A step may hold nothing that a query sees, before and after others did.
TEST_P(SparseAttention, SharpDistributions) {
  Problem problem(GetParam(), {3, 1, 64}, 600, rows_from(500, 100), 100.0f);
  for (const BlockShape shape : {BlockShape{32, 32}, {25, 7}}) {
    const BlockPlan plan = problem.plan(shape, 3, 0.2);
    const TestMatrix correct = problem.expected(plan);
    const Tolerance tolerance = GetParam() == Precision::kF32 ? kSharpAttentionF32 : kAttentionBf16;
    for (const cpu::TileKernels* kernels : tile_kernel_variants(GetParam(), 64)) {
      expect_close(problem.cpu().run(&plan, *kernels, 1), correct, tolerance);
    }
  }
}

TEST_P(SparseAttention, QueriesLeftWithNothingGetZeros) {
  const Problem problem(GetParam(), {3, 1, 64}, 200, rows_from(0, 200));
  for (const BlockShape shape : {BlockShape{16, 16}, {32, 32}, {25, 7}}) {
    BlockPlan plan = random_plan(shape, 3, problem.query_rows(), 0.0, 1);
    for (const cpu::TileKernels* kernels : tile_kernel_variants(GetParam(), 64)) {
      const TestMatrix out = problem.cpu().run(&plan, *kernels, 2);
      EXPECT_EQ(out.row_bits(0, 200),
                std::string(static_cast<std::size_t>(200 * out.view().row_bytes()), '\0'));
    }
  }
}

TEST_P(SparseAttention, AFullPlanIsNoPlan) {
  for (const std::int64_t first : {0, 37}) {
    const Problem problem(GetParam(), {9, 3, 64}, 261, rows_from(first, 261 - first));
    for (const cpu::TileKernels* kernels : tile_kernel_variants(GetParam(), 64)) {
      const TestMatrix dense = problem.cpu().run(nullptr, *kernels, 2);
      for (const BlockShape shape : kBlockShapes) {
        BlockPlan plan = full_plan(shape.q_block, shape.k_block, 9, problem.query_rows());
        plan.means = problem.cpu().means(shape.k_block);
        EXPECT_TRUE(cpu::is_full(plan, problem.query_rows()));
        EXPECT_TRUE(dense.same_bits(problem.cpu().run(&plan, *kernels, 2))) << kernels->name;
        expect_close(
            problem.cpu().run(&plan, [&](const AttentionParams& p) { cpu::plan_attention(p, *kernels, 2); }),
            dense, problem.tolerance());
      }
    }
  }
}

TEST(IsFull, NeedsEveryCausalBlockOfEveryHead) {
  const std::vector<std::int64_t> rows = rows_from(37, 100);
  for (const BlockShape shape : kBlockShapes) {
    const BlockPlan full = full_plan(shape.q_block, shape.k_block, 2, rows);
    ASSERT_TRUE(cpu::is_full(full, rows));
    for (std::size_t missing = 0; missing < full.blocks.size(); missing += 5) {
      BlockPlan plan = full;
      plan.blocks.erase(plan.blocks.begin() + static_cast<std::ptrdiff_t>(missing));
      for (std::int64_t& offset : plan.offsets) {
        if (offset > static_cast<std::int64_t>(missing)) --offset;
      }
      EXPECT_FALSE(cpu::is_full(plan, rows)) << missing;
    }
  }
}

TEST_P(SparseAttention, PortableKernelsOnEveryTarget) {
  const auto& kernels =
      GetParam() == Precision::kF32 ? cpu::portable_f32_tile_kernels() : cpu::portable_bf16_tile_kernels();
  for (const std::int64_t head_dim : {7, 20, 64}) {
    const Problem problem(GetParam(), {4, 2, head_dim}, 141, with_gaps(141, 3));
    for (const BlockShape shape : {BlockShape{16, 16}, {32, 32}, {25, 7}}) {
      BlockPlan plan = problem.plan(shape, 4, 0.4);
      const TestMatrix correct = problem.expected(plan, true);
      plan.means = problem.cpu().means(shape.k_block);
      for_each_target(
          [&] { expect_close(problem.cpu().run(&plan, kernels, 1), correct, problem.tolerance()); });
    }
  }
}

}  // namespace
}  // namespace winnow::testing
