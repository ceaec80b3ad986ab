// Blocks chosen on the GPU against the reference planner's: as many pairs, and attention over them alike.
// Skips where there is no GPU. (bench/gpu/block_plans_check compares block by block.)
#include <cmath>

#include "support/cuda_test.h"

namespace winnow::testing {
namespace {

using CudaPlanner = CudaTest;
INSTANTIATE_TEST_SUITE_P(Gpu, CudaPlanner, ::testing::ValuesIn(kPrecisions), precision_of);

struct Planned {
  PlanWork work;
  std::vector<float> out;
};

Planned plan_and_attend(Backend& backend, const BlockRule& rule, float threshold) {
  constexpr std::int64_t kRows = 500, kQueries = 384;
  const HeadShape shape{4, 2, 64};
  const FilledCache cache(backend, shape, kRows);
  std::vector<std::int64_t> query_rows(kQueries);
  std::iota(query_rows.begin(), query_rows.end(), kRows - kQueries);
  const TestMatrix q(backend, backend.compute_dtype(), kQueries, shape.q_cols(),
                     random_floats(kQueries * shape.q_cols(), 5, 2.0f));
  TestMatrix out(backend, backend.compute_dtype(), kQueries, shape.q_cols());
  const auto planner = backend.make_planner({.rule = rule,
                                             .thresholds = std::vector<float>(4, threshold),
                                             .kv = &cache.kv,
                                             .scale = 0.125f,
                                             .last_q = q.view().slice(kQueries - 64, 64)});
  BlockPlan plan;
  planner->plan(q.view(), query_rows, plan);
  backend.attention({.q = q.view(),
                     .query_rows = query_rows,
                     .kv = &cache.kv,
                     .scale = 0.125f,
                     .out = out.view(),
                     .plan = &plan});
  return {plan_work(plan, query_rows), out.floats()};
}

TEST_P(CudaPlanner, ChoosesWhatTheReferenceChooses) {
  using E = BlockEstimator;
  int alike = 0, rules = 0;
  for (const auto& [estimator, threshold] : {std::pair{E::kNone, 0.5f},
                                             {E::kPooled, 0.6f},
                                             {E::kExact, 0.6f},
                                             {E::kAntidiagonal, 0.6f},
                                             {E::kVerticalSlash, 0.3f}}) {
    for (const bool means : {false, true}) {
      BlockRule rule{.estimator = estimator, .q_block = 64, .k_block = 64};
      rule.mean_correction = means;
      const Planned found = plan_and_attend(*cuda_, rule, threshold),
                    expected = plan_and_attend(*reference_, rule, threshold);
      SCOPED_TRACE(::testing::Message()
                   << "estimator " << static_cast<int>(estimator) << ", means " << means);
      EXPECT_EQ(found.work.causal, expected.work.causal);
      EXPECT_NEAR(found.work.computed, expected.work.computed, 0.02 * expected.work.causal);
      ++rules;
      if (found.work.computed != expected.work.computed) continue;  // a tie fell the other way
      ++alike;
      expect_close(found.out, expected.out, bf16() ? Tolerance{2e-2, kBf16Ulp} : Tolerance{1e-4, 1e-4});
    }
  }
  EXPECT_GE(alike, bf16() ? rules / 2 : rules);
}

}  // namespace
}  // namespace winnow::testing
