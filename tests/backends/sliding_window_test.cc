// Sliding windows: what a query sees, and every operation around the cache on layers that have one, the CPU's
// kernels against the reference.
#include "backends/sliding_window.h"

#include <cmath>

#include "backends/cpu/attention.h"
#include "backends/cpu/block_planner.h"
#include "backends/cpu/plan_attention.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

// Positions as pruning leaves them: long runs, and gaps of up to 40.
std::vector<std::int32_t> pruned_positions(std::int64_t rows) {
  std::vector<std::int32_t> positions;
  for (std::int32_t position = 3; std::ssize(positions) < rows; ++position) {
    if (std::ssize(positions) % 23 == 0) position += position * 7 % 41;
    positions.push_back(position);
  }
  return positions;
}

TEST(SlidingWindow, SeesPositionsLessThanItsSizeBack) {
  const std::vector<std::int32_t> positions{0, 1, 2, 5, 6, 9};
  const auto first = [&](std::int64_t size) {
    std::vector<std::int64_t> rows;
    for (std::int64_t row = 0; row < 6; ++row) rows.push_back(SlidingWindow{positions, size}.first_row(row));
    return rows;
  };
  EXPECT_EQ(first(0), (std::vector<std::int64_t>{0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(first(1), (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(first(2), (std::vector<std::int64_t>{0, 0, 1, 3, 3, 5}));
  EXPECT_EQ(first(4), (std::vector<std::int64_t>{0, 0, 0, 2, 3, 4}));
  EXPECT_EQ(first(5), (std::vector<std::int64_t>{0, 0, 0, 1, 2, 3}));
  EXPECT_EQ(first(100), (std::vector<std::int64_t>{0, 0, 0, 0, 0, 0}));
}

TEST(SlidingWindow, PlansCountWhatIsSeen) {
  std::vector<std::int32_t> positions(40);
  std::iota(positions.begin(), positions.end(), 0);
  const SlidingWindow window{positions, 10};
  const std::vector<std::int64_t> rows = rows_from(20, 20);
  EXPECT_EQ(visible_pairs(rows, window), 200);
  const BlockPlan full = full_plan(8, 4, 2, rows, window);
  EXPECT_EQ(full.row(1, 0).front(), 2);  // row 20 sees row 11 on
  EXPECT_EQ(plan_work(full, rows, window).density(), 1.0);
  const BlockPlan all = full_plan(8, 4, 2, rows);
  EXPECT_EQ(plan_work(all, rows, window).computed, 200);
  EXPECT_TRUE(cpu::is_full(full, rows, window));
  EXPECT_TRUE(cpu::is_full(all, rows, window));
  EXPECT_FALSE(cpu::is_full(full, rows));
  BlockPlan lacking = full;
  lacking.blocks.erase(lacking.blocks.begin());
  for (std::size_t i = 1; i < lacking.offsets.size(); ++i) --lacking.offsets[i];
  EXPECT_FALSE(cpu::is_full(lacking, rows, window));
  EXPECT_EQ(plan_work(lacking, rows, 1, window).computed, 200);
  EXPECT_EQ(plan_work(lacking, rows, 0, window).computed, 199);
}

struct Shape {
  HeadShape heads;
  std::int64_t rows;
  bool pruned;  // positions have gaps
};

// A cache and queries at some of its rows, in both backends.
class Problem {
 public:
  Problem(Precision precision, const Shape& shape, std::vector<std::int64_t> query_rows)
      : precision_(precision),
        shape_(shape),
        query_rows_(std::move(query_rows)),
        cpu_(make_cpu_backend(precision, 2)),
        reference_(make_reference_backend(precision)),
        cache_(*cpu_, shape.heads, shape.rows),
        reference_cache_(*reference_, shape.heads, shape.rows),
        q_(*cpu_, cpu_->compute_dtype(), std::ssize(query_rows_), shape.heads.q_cols(),
           random_floats(std::ssize(query_rows_) * shape.heads.q_cols(), 5, 3.0f)) {
    if (shape.pruned) cache_.kv.positions = reference_cache_.kv.positions = pruned_positions(shape.rows);
  }

  const std::vector<std::int64_t>& query_rows() const { return query_rows_; }
  const LayerKv& kv() const { return cache_.kv; }
  Tolerance tolerance() const { return precision_ == Precision::kBF16 ? kAttentionBf16 : kAttentionF32; }
  std::vector<const cpu::TileKernels*> kernels() const {
    return tile_kernel_variants(precision_, shape_.heads.head_dim);
  }

  AttentionParams params(const LayerKv& kv, const TestMatrix& out, std::int64_t window,
                         const BlockPlan* plan = nullptr) const {
    return {.q = q_.view(),
            .query_rows = query_rows_,
            .kv = &kv,
            .scale = scale(),
            .out = out.view(),
            .plan = plan,
            .window = window};
  }
  TestMatrix attend(std::int64_t window, const cpu::TileKernels& kernels, int threads = 1,
                    const BlockPlan* plan = nullptr) const {
    TestMatrix out(*cpu_, cpu_->compute_dtype(), q_.view().rows, q_.view().cols);
    cpu::attention(params(cache_.kv, out, window, plan), kernels, threads);
    return out;
  }
  TestMatrix expected(std::int64_t window, const BlockPlan* plan = nullptr) const {
    TestMatrix out(*cpu_, cpu_->compute_dtype(), q_.view().rows, q_.view().cols);
    reference_->attention(params(reference_cache_.kv, out, window, plan));
    return out;
  }

  // Random rows in the place of means.
  void add_means(Backend& backend, BlockPlan& plan) const {
    FilledCache means(backend, shape_.heads, shape_.rows / plan.k_block + 1, 11);
    plan.means = std::make_shared<LayerKv>(std::move(means.kv));
  }

  void compare(std::int64_t window) const {
    SCOPED_TRACE(describe(window));
    const TestMatrix correct = expected(window);
    for (const cpu::TileKernels* variant : kernels()) {
      SCOPED_TRACE(variant->name);
      const TestMatrix out = attend(window, *variant);
      expect_close(out, correct, tolerance());
      EXPECT_TRUE(out.same_bits(attend(window, *variant, 3)));
    }
  }
  void compare(std::int64_t window, BlockPlan plan, bool means) const {
    SCOPED_TRACE(describe(window));
    SCOPED_TRACE(::testing::Message() << "blocks of " << plan.q_block << " x " << plan.k_block);
    if (means) add_means(*reference_, plan);
    const TestMatrix correct = expected(window, &plan);
    if (means) add_means(*cpu_, plan);
    for (const cpu::TileKernels* variant : kernels()) {
      SCOPED_TRACE(variant->name);
      expect_close(attend(window, *variant, 2, &plan), correct, tolerance());
    }
  }

  void compare_probabilities(std::int64_t window) const {
    SCOPED_TRACE(describe(window));
    for (std::int64_t head = 0; head < shape_.heads.heads; ++head) {
      TestMatrix actual(*cpu_, DType::kF32, q_.view().rows, shape_.rows), correct = actual_like();
      reference_->attention_probs(probs_params(reference_cache_.kv, head, window, correct));
      for (const cpu::TileKernels* variant : kernels()) {
        cpu::attention_probs(probs_params(cache_.kv, head, window, actual), *variant, 2);
        expect_close(actual, correct, kWindowScores);
      }
    }
  }

  // The last `queries` rows of the cache; the queries' own rows do not matter.
  void compare_window_scores(std::int64_t window, std::int64_t queries) const {
    SCOPED_TRACE(describe(window));
    std::vector<float> actual(static_cast<std::size_t>(shape_.rows)), correct = actual;
    const auto score_params = [&](const LayerKv& kv, std::vector<float>& scores) {
      return WindowScoresParams{.q = q_.view().slice(0, queries),
                                .kv = &kv,
                                .scale = scale(),
                                .reduction = HeadReduction::kMean,
                                .scores = scores,
                                .sliding_window = window};
    };
    reference_->window_scores(score_params(reference_cache_.kv, correct));
    EXPECT_NEAR(std::accumulate(correct.begin(), correct.end(), 0.0), 1.0, 1e-4);
    for (const cpu::TileKernels* variant : kernels()) {
      cpu::window_scores(score_params(cache_.kv, actual), *variant, 2);
      expect_close(actual, correct, kWindowScores);
    }
  }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.heads.head_dim)); }
  TestMatrix actual_like() const { return {*cpu_, DType::kF32, q_.view().rows, shape_.rows}; }
  AttentionProbsParams probs_params(const LayerKv& kv, std::int64_t head, std::int64_t window,
                                    const TestMatrix& probs) const {
    return {.q = q_.view(),
            .query_rows = query_rows_,
            .kv = &kv,
            .scale = scale(),
            .head = head,
            .probs = probs.view(),
            .window = window};
  }
  ::testing::Message describe(std::int64_t window) const {
    return ::testing::Message() << ::testing::PrintToString(shape_.heads) << ", cache rows " << shape_.rows
                                << (shape_.pruned ? " with gaps" : "") << ", " << query_rows_.size()
                                << " queries, window " << window << ", " << name(precision_);
  }

  Precision precision_;
  Shape shape_;
  std::vector<std::int64_t> query_rows_;
  std::unique_ptr<Backend> cpu_, reference_;
  FilledCache cache_, reference_cache_;
  TestMatrix q_;
};

constexpr std::int64_t kWindows[] = {1, 2, 15, 16, 17, 33, 64, 100, 129, 255};

class SlidingWindowOps : public ::testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Cpu, SlidingWindowOps, ::testing::ValuesIn(kPrecisions),
                         [](const auto& param_info) { return std::string(name(param_info.param)); });

// The rows outside the window might as well not be there.
TEST_P(SlidingWindowOps, TheReferenceEqualsACacheWithoutTheRowsOutside) {
  constexpr std::int64_t kRows = 20, kWindow = 6;
  const HeadShape shape{2, 1, 8};
  const auto backend = make_reference_backend(GetParam());
  const std::vector<float> qkv = random_floats(kRows * shape.qkv_cols(), 3);
  LayerKv all = make_kv(*backend, shape, kRows), inside = make_kv(*backend, shape, kRows);
  const TestMatrix q = append(*backend, all, {}, shape, qkv, 0);
  append(*backend, inside, {}, shape, std::span(qkv).last(kWindow * shape.qkv_cols()), 0);
  const TestMatrix out(*backend, backend->compute_dtype(), 1, shape.q_cols());
  const TestMatrix expected(*backend, backend->compute_dtype(), 1, shape.q_cols());
  const std::vector<std::int64_t> last{kRows - 1}, last_inside{kWindow - 1};
  const MatrixView query = q.view().slice(kRows - 1, 1);
  backend->attention(
      {.q = query, .query_rows = last, .kv = &all, .scale = 1, .out = out.view(), .window = kWindow});
  backend->attention(
      {.q = query, .query_rows = last_inside, .kv = &inside, .scale = 1, .out = expected.view()});
  EXPECT_TRUE(out.same_bits(expected));
}

TEST_P(SlidingWindowOps, Attention) {
  for (const bool pruned : {false, true}) {
    const Problem whole(GetParam(), {{3, 1, 64}, 301, pruned}, rows_from(0, 301));
    const Problem odd(GetParam(), {{4, 2, 20}, 141, pruned}, {3, 4, 9, 40, 41, 42, 77, 100, 139, 140});
    const Problem decode(GetParam(), {{9, 3, 64}, 600, pruned}, {599});
    for (const std::int64_t window : kWindows) {
      whole.compare(window);
      odd.compare(window);
      decode.compare(window);
    }
  }
}

TEST_P(SlidingWindowOps, AWindowThatHoldsEverythingIsNone) {
  const Problem problem(GetParam(), {{9, 3, 64}, 261, false}, rows_from(37, 224));
  for (const cpu::TileKernels* kernels : problem.kernels()) {
    const TestMatrix none = problem.attend(0, *kernels);
    EXPECT_TRUE(none.same_bits(problem.attend(261, *kernels)));
    EXPECT_TRUE(none.same_bits(problem.attend(std::int64_t{1} << 40, *kernels)));
    EXPECT_FALSE(none.same_bits(problem.attend(200, *kernels)));
  }
}

BlockPlan every_other_block(std::int64_t q_block, std::int64_t k_block, std::int64_t heads,
                            std::span<const std::int64_t> query_rows) {
  BlockPlan plan = full_plan(q_block, k_block, heads, query_rows);
  std::vector<std::int32_t> blocks;
  std::vector<std::int64_t> offsets{0};
  for (std::size_t i = 0; i + 1 < plan.offsets.size(); ++i) {
    for (std::int64_t j = plan.offsets[i]; j < plan.offsets[i + 1]; ++j) {
      if ((plan.blocks[j] + i) % 2 == 0) blocks.push_back(plan.blocks[j]);
    }
    offsets.push_back(std::ssize(blocks));
  }
  plan.blocks = std::move(blocks);
  plan.offsets = std::move(offsets);
  return plan;
}

TEST_P(SlidingWindowOps, AttentionOverAPlan) {
  for (const bool pruned : {false, true}) {
    const Problem whole(GetParam(), {{3, 1, 64}, 301, pruned}, rows_from(0, 301));
    const Problem decode(GetParam(), {{9, 3, 64}, 600, pruned}, {599});
    for (const Problem* problem : {&whole, &decode}) {
      for (const auto& [q_block, k_block] : {std::pair{16, 16}, {32, 32}, {64, 16}, {48, 80}, {25, 7}}) {
        const BlockPlan plan = every_other_block(q_block, k_block, 3, problem->query_rows());
        for (const std::int64_t window : {1, 17, 100, 255}) {
          problem->compare(window, plan, false);
          problem->compare(window, plan, true);
        }
      }
    }
  }
}

TEST_P(SlidingWindowOps, AFullPlanIsNoPlan) {
  const Problem problem(GetParam(), {{9, 3, 64}, 261, true}, rows_from(37, 224));
  for (const cpu::TileKernels* kernels : problem.kernels()) {
    for (const std::int64_t window : {20, 100}) {
      const TestMatrix dense = problem.attend(window, *kernels, 2);
      const BlockPlan plan = full_plan(32, 16, 9, problem.query_rows(), problem.kv().window(window));
      EXPECT_TRUE(dense.same_bits(problem.attend(window, *kernels, 2, &plan)));
      TestMatrix out = problem.attend(window, *kernels, 2);
      cpu::plan_attention(problem.params(problem.kv(), out, window, &plan), *kernels, 2);
      expect_close(out, dense, problem.tolerance());
    }
  }
}

TEST_P(SlidingWindowOps, Probabilities) {
  for (const bool pruned : {false, true}) {
    const Problem some(GetParam(), {{4, 2, 20}, 141, pruned}, {3, 4, 9, 40, 41, 42, 77, 100, 139, 140});
    const Problem all(GetParam(), {{2, 1, 64}, 130, pruned}, rows_from(0, 130));
    for (const std::int64_t window : kWindows) {
      some.compare_probabilities(window);
      all.compare_probabilities(window);
      all.compare_window_scores(window, 1);
      all.compare_window_scores(window, 70);
    }
  }
}

}  // namespace
}  // namespace winnow::testing
