// Exact probabilities of the CPU backend, on every variant of its tile kernels, against the reference.
#include <cmath>

#include "backends/cpu/block_planner.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

class AttentionProbs : public ::testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Cpu, AttentionProbs, ::testing::ValuesIn(kPrecisions),
                         [](const auto& param_info) { return std::string(name(param_info.param)); });

// Rows sum to 1, and are exactly 0 behind the query's own row.
void expect_distributions(const TestMatrix& probs, const std::vector<std::int64_t>& query_rows) {
  const std::vector<float> p = probs.floats();
  const std::int64_t cols = probs.view().cols;
  for (std::size_t i = 0; i < query_rows.size(); ++i) {
    const float* row = p.data() + static_cast<std::int64_t>(i) * cols;
    EXPECT_NEAR(std::accumulate(row, row + cols, 0.0), 1.0, 1e-5);
    EXPECT_TRUE(std::all_of(row + query_rows[i] + 1, row + cols, [](float x) { return x == 0.0f; }));
  }
}

void compare(Precision precision, const HeadShape& shape, std::int64_t rows,
             const std::vector<std::int64_t>& query_rows) {
  SCOPED_TRACE(::testing::Message() << ::testing::PrintToString(shape) << ", cache rows " << rows);
  const auto cpu = make_cpu_backend(precision, 1), reference = make_reference_backend(precision);
  const FilledCache cache(*cpu, shape, rows), reference_cache(*reference, shape, rows);
  const auto count = static_cast<std::int64_t>(query_rows.size());
  const TestMatrix q(*cpu, cpu->compute_dtype(), count, shape.q_cols(),
                     random_floats(count * shape.q_cols(), 5, 2.0f));
  for (std::int64_t head = 0; head < shape.heads; ++head) {
    const TestMatrix actual(*cpu, DType::kF32, count, rows), expected(*cpu, DType::kF32, count, rows);
    const auto params = [&](const LayerKv& kv, const TestMatrix& probs) {
      return AttentionProbsParams{.q = q.view(),
                                  .query_rows = query_rows,
                                  .kv = &kv,
                                  .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
                                  .head = head,
                                  .probs = probs.view()};
    };
    reference->attention_probs(params(reference_cache.kv, expected));
    expect_distributions(expected, query_rows);
    for (const cpu::TileKernels* kernels : tile_kernel_variants(precision, shape.head_dim)) {
      for (const int threads : {1, 3}) {
        cpu::attention_probs(params(cache.kv, actual), *kernels, threads);
        expect_close(actual, expected, kWindowScores);
        expect_distributions(actual, query_rows);
      }
    }
    cpu->attention_probs(params(cache.kv, actual));
    expect_close(actual, expected, kWindowScores);
  }
}

TEST_P(AttentionProbs, AgreeWithTheReference) {
  std::vector<std::int64_t> all(70), gaps;
  std::iota(all.begin(), all.end(), 0);
  for (std::int64_t row = 3; row < 130; row += 1 + row % 5) gaps.push_back(row);
  compare(GetParam(), {3, 1, 64}, 70, all);
  compare(GetParam(), {4, 2, 20}, 130, gaps);
  compare(GetParam(), {2, 1, 7}, 33, {32});
  compare(GetParam(), {1, 1, 128}, 1, {0});
}

}  // namespace
}  // namespace winnow::testing
