// Window scores of the CPU backend, on every variant of its tile kernels. Promised bit for bit: the same call
// twice, and any number of threads.
#include <cmath>

#include "backends/cpu/attention.h"
#include "backends/cpu/window_softmax.h"
#include "support/backend_test_util.h"
#include "support/nan_window.h"

namespace winnow::testing {
namespace {

struct WindowCase {
  HeadShape shape;
  std::int64_t rows, window;
  HeadReduction reduction;
  std::vector<std::int32_t> heads = {};  // asked; empty: all
  QueryReduction queries = QueryReduction::kMean;
  bool per_head = false;
};

class Problem {
 public:
  Problem(Precision precision, const WindowCase& c)
      : precision_(precision),
        case_(c),
        cpu_(make_cpu_backend(precision, 1)),
        reference_(make_reference_backend(precision)),
        cache_(*cpu_, c.shape, c.rows),
        reference_cache_(*reference_, c.shape, c.rows),
        q_(*cpu_, cpu_->compute_dtype(), c.window, c.shape.q_cols(),
           random_floats(c.window * c.shape.q_cols(), 5, 2.0f)) {}

  void compare() {
    SCOPED_TRACE(::testing::Message()
                 << ::testing::PrintToString(case_.shape) << ", cache rows " << case_.rows << ", window "
                 << case_.window << ", " << name(precision_));
    const auto expected =
        run([&](const WindowScoresParams& p) { reference_->window_scores(p); }, reference_cache_.kv);
    const double total = std::accumulate(expected.begin(), expected.end(), 0.0);
    if (case_.reduction == HeadReduction::kMean && !case_.per_head &&
        case_.queries == QueryReduction::kMean) {
      EXPECT_NEAR(total, 1.0, 1e-4);
    } else {
      EXPECT_GT(total, 1.0 - 1e-4);
    }
    for (const cpu::TileKernels* kernels : tile_kernel_variants(precision_, case_.shape.head_dim)) {
      SCOPED_TRACE(kernels->name);
      const auto scores = [&](int threads) {
        return run([&](const WindowScoresParams& p) { cpu::window_scores(p, *kernels, threads); }, cache_.kv);
      };
      const std::vector<float> actual = scores(1);
      expect_close(actual, expected, kWindowScores);
      for (const int threads : {1, 2, 3})
        EXPECT_EQ(actual, scores(threads)) << "on " << threads << " threads";
    }
  }

  void compare_on_all_targets() {
    const auto expected =
        run([&](const WindowScoresParams& p) { reference_->window_scores(p); }, reference_cache_.kv);
    const cpu::TileKernels& kernels = *tile_kernel_variants(precision_, case_.shape.head_dim).back();
    for_each_target([&] {
      expect_close(run([&](const WindowScoresParams& p) { cpu::window_scores(p, kernels, 1); }, cache_.kv),
                   expected, kWindowScores);
    });
  }

 private:
  template <class Score>
  std::vector<float> run(Score score, const LayerKv& kv) {
    const std::int64_t asked = case_.heads.empty() ? case_.shape.heads : std::ssize(case_.heads);
    std::vector<float> scores(static_cast<std::size_t>(case_.rows * (case_.per_head ? asked : 1)), -1.0f);
    score(WindowScoresParams{.q = q_.view(),
                             .kv = &kv,
                             .scale = 1.0f / std::sqrt(static_cast<float>(case_.shape.head_dim)),
                             .heads = case_.heads,
                             .queries = case_.queries,
                             .reduction = case_.reduction,
                             .per_head = case_.per_head,
                             .scores = scores});
    return scores;
  }

  Precision precision_;
  WindowCase case_;
  std::unique_ptr<Backend> cpu_, reference_;
  FilledCache cache_, reference_cache_;
  TestMatrix q_;
};

class WindowScores : public ::testing::TestWithParam<std::tuple<Precision, HeadReduction>> {
 protected:
  Precision precision() const { return std::get<0>(GetParam()); }
  HeadReduction reduction() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Cpu, WindowScores,
                         ::testing::Combine(::testing::ValuesIn(kPrecisions),
                                            ::testing::Values(HeadReduction::kMax, HeadReduction::kMean)),
                         [](const auto& param_info) {
                           return std::string(name(std::get<0>(param_info.param))) +
                                  (std::get<1>(param_info.param) == HeadReduction::kMax ? "_max" : "_mean");
                         });

TEST_P(WindowScores, EveryHeadShape) {
  for (const std::int64_t head_dim : {1, 7, 8, 16, 20, 32, 64, 80, 128}) {
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {2, 1}, {9, 1}, {9, 3}}) {
      for (const std::int64_t window : {1, 7, 64}) {
        Problem(precision(), {{heads, kv_heads, head_dim}, 70, window, reduction()}).compare();
      }
    }
  }
}

TEST_P(WindowScores, EveryNumberOfRows) {
  for (std::int64_t rows = 1; rows <= 70; ++rows) {
    for (const std::int64_t window : {std::int64_t{1}, std::int64_t{7}, rows}) {
      if (window <= rows) Problem(precision(), {{3, 1, 64}, rows, window, reduction()}).compare();
    }
  }
  for (const std::int64_t rows : {257, 600}) {
    for (const std::int64_t window : {1, 7, 64}) {
      Problem(precision(), {{9, 3, 64}, rows, window, reduction()}).compare();
    }
  }
}

TEST_P(WindowScores, HeadsAskedMaximumOverQueriesAndScoresOfEachHead) {
  using Heads = std::vector<std::int32_t>;
  for (const Heads& heads : {Heads{}, Heads{8}, Heads{7, 2, 7}}) {
    for (const QueryReduction queries : {QueryReduction::kMean, QueryReduction::kMax}) {
      for (const bool per_head : {false, true}) {
        for (const auto& [rows, window] : {std::pair{1, 1}, {70, 7}, {141, 64}}) {
          Problem(precision(), {{9, 3, 64}, rows, window, reduction(), heads, queries, per_head}).compare();
        }
      }
    }
  }
}

TEST_P(WindowScores, PortableKernelsOnEveryTarget) {
  for (const std::int64_t head_dim : {1, 7, 20, 64}) {
    SCOPED_TRACE(head_dim);
    Problem(precision(), {{9, 3, head_dim}, 141, 33, reduction()}).compare_on_all_targets();
    Problem(precision(), {{9, 3, head_dim}, 141, 33, reduction(), {4, 1}, QueryReduction::kMax})
        .compare_on_all_targets();
  }
}

TEST_P(WindowScores, BackendAgreesWithTheReference) {
  const HeadShape shape{9, 3, 64};
  const auto cpu = make_cpu_backend(precision(), 2), reference = make_reference_backend(precision());
  const FilledCache cache(*cpu, shape, 100), reference_cache(*reference, shape, 100);
  const TestMatrix q(*cpu, cpu->compute_dtype(), 7, shape.q_cols(), random_floats(7 * shape.q_cols(), 5));
  std::vector<float> actual(100), expected(100);
  cpu->window_scores(
      {.q = q.view(), .kv = &cache.kv, .scale = 0.125f, .reduction = reduction(), .scores = actual});
  reference->window_scores({.q = q.view(),
                            .kv = &reference_cache.kv,
                            .scale = 0.125f,
                            .reduction = reduction(),
                            .scores = expected});
  expect_close(actual, expected, kWindowScores);
}

TEST_P(WindowScores, KeepWhatIsNotANumber) {
  for (const auto& make : {+[](Precision p) { return make_cpu_backend(p, 2); },
                           +[](Precision p) { return make_reference_backend(p); }}) {
    const auto backend = make(precision());
    for (const std::int64_t head : {0, 3}) expect_nan_in_window_scores(*backend, head, reduction());
  }
}

TEST(WindowSoftmax, OfWhichLogitsThereIsOne) {
  for_each_target([] {
    for (const std::int64_t count : {1, 15, 16, 17, 40}) {
      std::vector<float> logits(static_cast<std::size_t>(count), -INFINITY);
      EXPECT_FALSE(cpu::has_softmax(logits.data(), count));
      for (std::int64_t i = 0; i < count; ++i) {
        logits[i] = 3.0f;
        EXPECT_TRUE(cpu::has_softmax(logits.data(), count));
        for (const float none : {NAN, INFINITY}) {
          std::vector<float> broken = logits;
          broken[(i * 7 + 3) % count] = none;
          EXPECT_FALSE(cpu::has_softmax(broken.data(), count)) << count << ", " << i;
        }
        logits[i] = -INFINITY;
      }
    }
  });
}

}  // namespace
}  // namespace winnow::testing
