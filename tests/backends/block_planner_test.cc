// Block planners of both backends. The CPU's is compared with the reference "up to ties": it rounds mean keys
// to the compute dtype and adds up in float32, so that blocks whose estimates lie within a tolerance of the
// cut may be chosen differently. What it lists must be a right answer to estimates that are off by that much.
#include "backends/cpu/block_planner.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "backends/block_choice.h"
#include "backends/cpu/kv_layout.h"
#include "backends/reference/reference_planner.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

using Blocks = std::vector<std::int32_t>;

// Relative error of an estimate. The operands of exact and antidiagonal scores are those of the reference:
// float32 sums and exp, some 1e-5. Mean keys and variances round to bf16 in a bf16 cache, 2^-9 of each
// element: with the scores of these tests (scale * |q| * |mean| of at most 8, 64 independent errors) an error
// of up to 0.01 in the logit, and a whole softmax of such.
double estimate_tolerance(BlockEstimator estimator, Precision precision) {
  return estimator == BlockEstimator::kPooled && precision == Precision::kBF16 ? 0.04 : 2e-4;
}

struct Case {
  HeadShape shape{4, 2, 16};
  std::int64_t rows = 200;
  std::vector<std::int64_t> query_rows;
  BlockRule rule = {};
  std::vector<float> thresholds;
  std::int64_t dense_from_row = -1;
  std::int64_t window = 0;  // and positions with gaps, if there is one
};

std::vector<std::int64_t> range(std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> result(static_cast<std::size_t>(end - begin));
  std::iota(result.begin(), result.end(), begin);
  return result;
}

Blocks row_of(const BlockPlan& plan, std::int64_t head, std::int64_t query_block) {
  const std::span<const std::int32_t> row = plan.row(head, query_block);
  return {row.begin(), row.end()};
}

void expect_same_plan(const BlockPlan& actual, const BlockPlan& expected) {
  EXPECT_EQ(actual.offsets, expected.offsets);
  EXPECT_EQ(actual.blocks, expected.blocks);
  EXPECT_EQ(actual.heads, expected.heads);
  EXPECT_EQ(actual.query_blocks, expected.query_blocks);
}

// A cache and queries, the same in both backends.
class Problem {
 public:
  Problem(Precision precision, Case c, std::span<const float> qkv)
      : precision_(precision),
        case_(std::move(c)),
        cpu_(make_cpu_backend(precision, 2)),
        reference_(make_reference_backend(precision)),
        kv_(make_kv(*cpu_, case_.shape, case_.rows)),
        reference_kv_(make_kv(*reference_, case_.shape, case_.rows)),
        all_q_(append(*cpu_, kv_, rope_, case_.shape, qkv, 0)),
        q_(gather_queries()) {
    append(*reference_, reference_kv_, rope_, case_.shape, qkv, 0);
    if (case_.window == 0) return;
    for (std::int64_t row = 0; row < case_.rows; ++row) {
      kv_.positions[row] = reference_kv_.positions[row] = static_cast<std::int32_t>(row + row / 20 * 9);
    }
  }
  Problem(Precision precision, Case c, unsigned seed = 7)
      : Problem(precision, c, random_floats(c.rows * c.shape.qkv_cols(), seed, 1.3f)) {}

  BlockPlannerParams params(const LayerKv& kv) const {
    const std::int64_t last = std::min<std::int64_t>(64, case_.rows);
    return {.rule = case_.rule,
            .thresholds = case_.thresholds,
            .kv = &kv,
            .scale = 1.0f / std::sqrt(static_cast<float>(case_.shape.head_dim)),
            .dense_from_row = case_.dense_from_row,
            .last_q = all_q_.view().slice(case_.rows - last, last),
            .window = case_.window};
  }
  BlockPlan reference_plan() { return plan(*reference_->make_planner(params(reference_kv_))); }
  BlockPlan cpu_plan() { return plan(*cpu_->make_planner(params(kv_))); }
  BlockPlan cpu_plan(const cpu::TileKernels& kernels, int threads) {
    return plan(*cpu::make_planner(params(kv_), kernels, threads));
  }
  // The chunks of a prefill: `chunk` queries at a time, by one planner.
  BlockPlan chunked_cpu_plan(std::int64_t chunk, std::int64_t number) {
    const auto planner = cpu_->make_planner(params(kv_));
    BlockPlan result;
    for (std::int64_t i = 0; i <= number; ++i) {
      const std::int64_t count = std::min(chunk, q_.view().rows - i * chunk);
      planner->plan(q_.view().slice(i * chunk, count),
                    std::span(case_.query_rows)
                        .subspan(static_cast<std::size_t>(i * chunk), static_cast<std::size_t>(count)),
                    result);
    }
    return result;
  }

  void compare() {
    SCOPED_TRACE(::testing::Message() << describe());
    const BlockPlan expected = reference_plan();
    expect_well_formed(expected);
    for (const cpu::TileKernels* kernels : tile_kernel_variants(precision_, case_.shape.head_dim)) {
      SCOPED_TRACE(kernels->name);
      const BlockPlan actual = cpu_plan(*kernels, 1);
      expect_well_formed(actual);
      expect_same_plan(cpu_plan(*kernels, 3), actual);
      if (case_.rule.group_union || case_.rule.estimator == BlockEstimator::kNone ||
          case_.rule.estimator == BlockEstimator::kVerticalSlash) {
        expect_same_plan(actual, expected);
      } else {
        expect_right_up_to_ties(actual);
      }
    }
  }

  const LayerKv& kv() const { return kv_; }
  const LayerKv& reference_kv() const { return reference_kv_; }
  const Case& test_case() const { return case_; }

 private:
  TestMatrix gather_queries() {
    TestMatrix q(*cpu_, cpu_->compute_dtype(), static_cast<std::int64_t>(case_.query_rows.size()),
                 case_.shape.q_cols());
    for (std::size_t i = 0; i < case_.query_rows.size(); ++i) {
      std::memcpy(q.view().row<char>(static_cast<std::int64_t>(i)),
                  all_q_.view().row<char>(case_.query_rows[i]),
                  static_cast<std::size_t>(q.view().row_bytes()));
    }
    return q;
  }
  BlockPlan plan(BlockPlanner& planner) {
    BlockPlan result;
    planner.plan(q_.view(), case_.query_rows, result);
    return result;
  }

  std::string describe() const {
    const BlockRule& r = case_.rule;
    return fmt::format(
        "{}, {} heads of {}, {} rows, {} queries from {}, estimator {}, criterion {}, blocks {}x{}, stride "
        "{}, "
        "pool {}, variance {}, query stride {}, threshold {}, window {}",
        name(precision_), case_.shape.heads, case_.shape.head_dim, case_.rows, case_.query_rows.size(),
        case_.query_rows.front(), static_cast<int>(r.estimator), static_cast<int>(r.criterion), r.q_block,
        r.k_block, r.stride, r.pool, r.variance, r.query_stride, case_.thresholds[0], case_.window);
  }

  void expect_well_formed(const BlockPlan& plan) {
    const std::int64_t heads = case_.rule.group_union ? case_.shape.kv_heads : case_.shape.heads;
    ASSERT_EQ(plan.heads, heads);
    ASSERT_EQ(plan.query_blocks, block_count(q_.view().rows, case_.rule.q_block));
    ASSERT_EQ(static_cast<std::int64_t>(plan.offsets.size()), heads * plan.query_blocks + 1);
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t i = 0; i < plan.query_blocks; ++i) {
        const Blocks row = row_of(plan, head, i);
        const auto rows = rows_of_block(case_.rule, case_.query_rows, i);
        EXPECT_TRUE(std::is_sorted(row.begin(), row.end(), std::less_equal<>()));  // and unique
        EXPECT_LT(row.back(), causal_blocks(case_.rule, rows));
        EXPECT_GE(row.front(), kv_.window(case_.window).first_row(rows.front()) / case_.rule.k_block);
        for (const std::int64_t r : rows) {
          EXPECT_TRUE(std::binary_search(row.begin(), row.end(), r / case_.rule.k_block)) << "row " << r;
        }
      }
    }
  }

  void expect_right_up_to_ties(const BlockPlan& plan) {
    for (std::int64_t head = 0; head < case_.shape.heads; ++head) {
      const auto estimates =
          reference::block_estimates(params(reference_kv_), q_.view(), case_.query_rows, head);
      for (std::int64_t i = 0; i < plan.query_blocks; ++i) {
        SCOPED_TRACE(::testing::Message() << "head " << head << ", query block " << i);
        const auto rows = rows_of_block(case_.rule, case_.query_rows, i);
        std::vector<std::uint64_t> forced(estimates[i].size() / 64 + 1);
        add_forced(case_.rule, case_.dense_from_row, rows, forced);
        remove_unseen(params(reference_kv_), rows, forced);
        expect_right_row(row_of(plan, head, i), estimates[i], forced, case_.thresholds[head]);
      }
    }
  }

  void expect_right_row(const Blocks& row, const std::vector<float>& estimates,
                        std::span<const std::uint64_t> forced, double threshold) {
    const double e = estimate_tolerance(case_.rule.estimator, precision_);
    const double total = std::accumulate(estimates.begin(), estimates.end(), 0.0);
    double mass = 0, smallest = 1e30, largest_left = 0;  // of the chosen ones, of the others
    for (std::size_t j = 0; j < estimates.size(); ++j) {
      const bool listed = std::binary_search(row.begin(), row.end(), static_cast<std::int32_t>(j));
      const bool is_forced = contains(forced, static_cast<std::int64_t>(j));
      EXPECT_TRUE(listed || !is_forced) << "forced block " << j;
      if (listed) mass += estimates[j];
      if (listed && !is_forced) smallest = std::min(smallest, double{estimates[j]});
      if (!listed) largest_left = std::max(largest_left, double{estimates[j]});
    }
    if (case_.rule.criterion == BlockCriterion::kMaximum) {
      EXPECT_GE(smallest, threshold * (1 - e));
      EXPECT_LT(largest_left, threshold * (1 + e));
      return;
    }
    EXPECT_GE(mass, (threshold - e) * total);         // enough,
    EXPECT_GE(smallest, largest_left * (1 - 2 * e));  // the largest,
    // and no more than needed.
    EXPECT_TRUE(smallest == 1e30 || mass - smallest < (threshold + e) * total);
  }

  Precision precision_;
  Case case_;
  std::unique_ptr<Backend> cpu_, reference_;
  RopeTable rope_;
  LayerKv kv_, reference_kv_;
  TestMatrix all_q_, q_;
};

class Planner : public ::testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Both, Planner, ::testing::ValuesIn(kPrecisions),
                         [](const auto& param_info) { return std::string(name(param_info.param)); });

// Random shapes: odd lengths, fewer rows than a block, starts in the middle of the cache, gaps.
Case random_case(std::mt19937& random, BlockEstimator estimator) {
  const auto pick = [&](std::initializer_list<std::int64_t> values) {
    return values.begin()[random() % values.size()];
  };
  Case c;
  c.shape.head_dim = pick({16, 20, 32, 64});
  c.shape.kv_heads = pick({1, 2, 3});
  c.shape.heads = c.shape.kv_heads * pick({1, 2, 3});
  c.rows = pick({1, 5, 31, 64, 97, 200, 333});
  const std::int64_t first = random() % 3 == 0 ? static_cast<std::int64_t>(random()) % c.rows : 0;
  const std::int64_t gap = pick({1, 1, 4});
  for (std::int64_t row = first; row < c.rows; row += 1 + static_cast<std::int64_t>(random()) % gap) {
    c.query_rows.push_back(row);
  }
  constexpr std::pair<std::int64_t, std::int64_t> kBlocks[] = {
      {16, 16}, {32, 16}, {32, 32}, {64, 64}, {1, 16}};
  const bool single = estimator == BlockEstimator::kAntidiagonal;  // whose stride divides q_block
  const auto [q_block, k_block] = kBlocks[random() % (single ? 4 : 5)];
  c.rule = {.estimator = estimator,
            .criterion = random() % 2 == 0 ? BlockCriterion::kMass : BlockCriterion::kMaximum,
            .q_block = q_block,
            .k_block = k_block,
            .stride = pick({2, 4, 8, 16}),
            .pool = pick({1, 4, 8, 16}),
            .variance = random() % 2 == 0,
            .query_stride = pick({1, 2, 5}),
            .sink_tokens = pick({0, 4, 20}),
            .local_tokens = pick({0, 10, 70})};
  if (estimator == BlockEstimator::kPooled && random() % 2 == 0) {
    c.rule.outliers = std::min<std::int64_t>(pick({1, 2, 4}), c.rule.pool - 1);
    c.rule.variance = false;
  }
  const bool mass = c.rule.criterion == BlockCriterion::kMass;
  for (std::int64_t head = 0; head < c.shape.heads; ++head) {
    c.thresholds.push_back(static_cast<float>(mass ? pick({50, 80, 95}) : pick({1, 3, 10})) / 100.0f);
  }
  if (random() % 4 == 0) c.dense_from_row = static_cast<std::int64_t>(random()) % (c.rows + 10);
  return c;
}

void compare_random(Precision precision, BlockEstimator estimator, int rounds) {
  std::mt19937 random(11);
  for (int round = 0; round < rounds; ++round) {
    Problem(precision, random_case(random, estimator), static_cast<unsigned>(round)).compare();
  }
}

TEST_P(Planner, NoneAgrees) { compare_random(GetParam(), BlockEstimator::kNone, 20); }
TEST_P(Planner, ExactAgrees) { compare_random(GetParam(), BlockEstimator::kExact, 25); }
TEST_P(Planner, PooledAgrees) { compare_random(GetParam(), BlockEstimator::kPooled, 60); }
TEST_P(Planner, AntidiagonalAgrees) { compare_random(GetParam(), BlockEstimator::kAntidiagonal, 30); }
TEST_P(Planner, VerticalSlashAgrees) { compare_random(GetParam(), BlockEstimator::kVerticalSlash, 30); }

TEST_P(Planner, SlidingWindowsAgree) {
  std::mt19937 random(13);
  for (const BlockEstimator estimator :
       {BlockEstimator::kNone, BlockEstimator::kExact, BlockEstimator::kPooled, BlockEstimator::kPooled,
        BlockEstimator::kAntidiagonal, BlockEstimator::kVerticalSlash}) {
    for (int round = 0; round < 15; ++round) {
      Case c = random_case(random, estimator);
      c.window = 1 + static_cast<std::int64_t>(random()) % (c.rows + 20);
      Problem(GetParam(), c, static_cast<unsigned>(round)).compare();
    }
  }
  // Whole groups of pools lie before what a query sees.
  Case c{.shape = {2, 1, 64}, .rows = 700, .query_rows = range(0, 700), .thresholds = {0.9f, 0.7f}};
  c.window = 150;
  c.rule = {.estimator = BlockEstimator::kPooled, .q_block = 16, .k_block = 16, .pool = 8, .outliers = 2};
  Problem(GetParam(), c).compare();
  c.rule = {.estimator = BlockEstimator::kAntidiagonal, .q_block = 32, .k_block = 32, .stride = 16};
  Problem(GetParam(), c).compare();
}

// More than 512 elements side by side, which the tile kernels take in parts; groups of pools beyond the
// first.
TEST_P(Planner, LongStridesAndManyBlocksAgree) {
  Case c{.shape = {2, 1, 64}, .rows = 700, .query_rows = range(0, 700), .thresholds = {0.9f, 0.7f}};
  c.rule = {.estimator = BlockEstimator::kAntidiagonal, .q_block = 32, .k_block = 32, .stride = 16};
  Problem(GetParam(), c).compare();
  c.rule = {.estimator = BlockEstimator::kPooled, .q_block = 16, .k_block = 16, .pool = 4};
  Problem(GetParam(), c).compare();
  c.rule.criterion = BlockCriterion::kMaximum;
  c.thresholds = {0.02f, 0.05f};
  Problem(GetParam(), c).compare();
}

TEST_P(Planner, SinkAndLocalByHand) {
  Case c{.shape = {2, 1, 16}, .rows = 100, .query_rows = range(0, 100), .thresholds = {0.9f, 0.9f}};
  c.rule = {
      .estimator = BlockEstimator::kNone, .q_block = 32, .k_block = 16, .sink_tokens = 4, .local_tokens = 16};
  Problem problem(GetParam(), c);
  for (const BlockPlan& plan : {problem.reference_plan(), problem.cpu_plan()}) {
    for (std::int64_t head = 0; head < 2; ++head) {
      EXPECT_EQ(row_of(plan, head, 0), (Blocks{0, 1}));
      EXPECT_EQ(row_of(plan, head, 1), (Blocks{0, 1, 2, 3}));
      EXPECT_EQ(row_of(plan, head, 2), (Blocks{0, 3, 4, 5}));
      EXPECT_EQ(row_of(plan, head, 3), (Blocks{0, 5, 6}));
    }
  }
}

TEST_P(Planner, ThresholdOneOfTheMassIsTheFullPlan) {
  for (const BlockEstimator estimator :
       {BlockEstimator::kExact, BlockEstimator::kPooled, BlockEstimator::kAntidiagonal}) {
    Case c{.shape = {2, 1, 16}, .rows = 150, .query_rows = range(0, 150), .thresholds = {1.0f, 1.0f}};
    c.rule = {.estimator = estimator, .q_block = 16, .k_block = 16, .sink_tokens = 0, .local_tokens = 0};
    Problem problem(GetParam(), c);
    const BlockPlan full = full_plan(16, 16, 2, c.query_rows);
    expect_same_plan(problem.reference_plan(), full);
    expect_same_plan(problem.cpu_plan(), full);
  }
}

TEST_P(Planner, AGroupsPlanIsTheUnionOfItsHeads) {
  Case c{.shape = {4, 2, 16}, .rows = 200, .query_rows = range(0, 200), .thresholds = {.3f, .5f, .4f, .2f}};
  c.rule = {.estimator = BlockEstimator::kExact, .q_block = 16, .k_block = 16, .local_tokens = 0};
  const BlockPlan heads = Problem(GetParam(), c).cpu_plan();
  c.rule.group_union = true;
  Problem problem(GetParam(), c);
  for (const BlockPlan& plan : {problem.reference_plan(), problem.cpu_plan()}) {
    ASSERT_EQ(plan.heads, 2);
    for (std::int64_t group = 0; group < 2; ++group) {
      for (std::int64_t i = 0; i < plan.query_blocks; ++i) {
        std::set<std::int32_t> expected;
        for (const std::int64_t head : {2 * group, 2 * group + 1}) {
          for (const std::int32_t block : heads.row(head, i)) expected.insert(block);
        }
        EXPECT_EQ(row_of(plan, group, i), Blocks(expected.begin(), expected.end()));
      }
    }
  }
}

// ---- planted structures

// Rows of zeros; structures are added to single queries and keys, so that everything else is uniform.
class Planted {
 public:
  explicit Planted(Case c) : case_(std::move(c)), qkv_(case_.rows * case_.shape.qkv_cols()) {}

  // Adds `strength` to element `dim` of every head's query (or key) at `row`.
  void query(std::int64_t row, std::int64_t dim, float strength) {
    add(row, 0, case_.shape.heads, dim, strength);
  }
  void key(std::int64_t row, std::int64_t dim, float strength) {
    add(row, case_.shape.heads, case_.shape.kv_heads, dim, strength);
  }

  // Whether block `key_block` is listed for query block `query_block` by both backends.
  bool found(Precision precision, std::int64_t query_block, std::int32_t key_block) const {
    Problem problem(precision, case_, qkv_);
    const Blocks reference = row_of(problem.reference_plan(), 0, query_block);
    EXPECT_EQ(row_of(problem.cpu_plan(), 0, query_block), reference);
    return std::binary_search(reference.begin(), reference.end(), key_block);
  }

 private:
  void add(std::int64_t row, std::int64_t first_head, std::int64_t heads, std::int64_t dim, float strength) {
    for (std::int64_t head = first_head; head < first_head + heads; ++head) {
      qkv_[row * case_.shape.qkv_cols() + head * case_.shape.head_dim + dim] += strength;
    }
  }

  Case case_;
  std::vector<float> qkv_;
};

Case planted_case(BlockEstimator estimator, BlockCriterion criterion, float threshold) {
  Case c{.shape = {1, 1, 16}, .rows = 256, .query_rows = range(0, 256), .thresholds = {threshold}};
  c.rule = {
      .estimator = estimator, .criterion = criterion, .q_block = 16, .k_block = 16, .stride = 8, .pool = 8};
  c.rule.sink_tokens = 0;
  c.rule.local_tokens = 0;
  return c;
}

// Query 250 attends to key 37 (scale * 16 * 6 = logit 24). Of the 16 queries of its block it is the only one:
// a sixteenth of the block's mass, which sums at 0.9 need not list. A mean of 8 keys makes the logit 3: the
// pool then has e^3 * 8 = 160 of some 400, still far more than any other.
TEST_P(Planner, ANeedleIsFoundByMaximaNotBySums) {
  const auto found = [&](BlockEstimator estimator, BlockCriterion criterion, float threshold) {
    Planted planted(planted_case(estimator, criterion, threshold));
    planted.query(250, 3, 16.0f);
    planted.key(37, 3, 6.0f);
    return planted.found(GetParam(), 15, 2);
  };
  EXPECT_TRUE(found(BlockEstimator::kExact, BlockCriterion::kMaximum, 0.1f));
  EXPECT_TRUE(found(BlockEstimator::kPooled, BlockCriterion::kMaximum, 0.15f));
  EXPECT_FALSE(found(BlockEstimator::kExact, BlockCriterion::kMaximum, 1.1f));
  // Asked on its own, the key has its full logit: nearly all of the estimate, where the mean has a third.
  for (const std::int64_t outliers : {0, 1}) {
    Case c = planted_case(BlockEstimator::kPooled, BlockCriterion::kMaximum, 0.9f);
    c.rule.outliers = outliers;
    Planted planted(c);
    planted.query(250, 3, 16.0f);
    planted.key(37, 3, 6.0f);
    EXPECT_EQ(planted.found(GetParam(), 15, 2), outliers == 1);
  }
  // The other 15 queries spread their mass over 16 blocks evenly: the needle's block has (1 + 15 / 16) / 16 =
  // .12 of it and comes first. With 8 queries that attend to other blocks sharply instead, it comes last.
  Planted drowned(planted_case(BlockEstimator::kExact, BlockCriterion::kMass, 0.85f));
  drowned.query(250, 3, 16.0f);
  drowned.key(37, 3, 6.0f);
  for (std::int64_t row = 240; row < 256; ++row) {
    if (row == 250) continue;
    drowned.query(row, 5, 16.0f);
  }
  drowned.key(100, 5, 6.0f);
  EXPECT_FALSE(drowned.found(GetParam(), 15, 2));
  EXPECT_TRUE(drowned.found(GetParam(), 15, 6));
}

// Every query i attends to key i - 95: keys carry one direction for their block and one for their place in
// it. (An odd distance: the antidiagonals of an even stride meet no pair of an even one.)
TEST_P(Planner, ADiagonalBandIsFound) {
  const auto found = [&](BlockEstimator estimator, std::int64_t local_tokens, std::int32_t key_block) {
    Case c = planted_case(estimator, BlockCriterion::kMass, 0.5f);
    c.shape.head_dim = 64;
    c.rule.local_tokens = local_tokens;
    Planted planted(c);
    for (std::int64_t row = 0; row < 256; ++row) {
      planted.key(row, row / 16, 8.0f);
      planted.key(row, 16 + row % 16, 8.0f);
      if (row < 95) continue;
      planted.query(row, (row - 95) / 16, 8.0f);
      planted.query(row, 16 + (row - 95) % 16, 8.0f);
    }
    return planted.found(GetParam(), 10, key_block);  // rows 160..175 -> 65..80: blocks 4 and 5
  };
  for (const BlockEstimator estimator : {BlockEstimator::kExact, BlockEstimator::kPooled,
                                         BlockEstimator::kAntidiagonal, BlockEstimator::kVerticalSlash}) {
    EXPECT_TRUE(found(estimator, 0, 4)) << static_cast<int>(estimator);
    EXPECT_FALSE(found(estimator, 0, 2)) << static_cast<int>(estimator);
  }
  EXPECT_TRUE(found(BlockEstimator::kNone, 96, 4));
  EXPECT_FALSE(found(BlockEstimator::kNone, 16, 4));
}

TEST_P(Planner, ASinkColumnIsFound) {
  for (const BlockEstimator estimator : {BlockEstimator::kVerticalSlash, BlockEstimator::kExact,
                                         BlockEstimator::kPooled, BlockEstimator::kAntidiagonal}) {
    Planted planted(planted_case(estimator, BlockCriterion::kMass, 0.5f));
    for (std::int64_t row = 0; row < 256; ++row) planted.query(row, 1, 8.0f);
    planted.key(2, 1, 32.0f);
    EXPECT_TRUE(planted.found(GetParam(), 15, 0)) << static_cast<int>(estimator);
  }
  for (const BlockEstimator estimator : {BlockEstimator::kNone, BlockEstimator::kPooled}) {
    Case c = planted_case(estimator, BlockCriterion::kMaximum, 2.0f);
    EXPECT_FALSE(Planted(c).found(GetParam(), 15, 0));
    c.rule.sink_tokens = 1;
    EXPECT_TRUE(Planted(c).found(GetParam(), 15, 0));
  }
}

// ---- growth

// A planner that saw the cache grow, in pieces that do not fit pools, blocks or strides, plans as a new one.
TEST_P(Planner, FollowsAGrowingCache) {
  const HeadShape shape{4, 2, 20};
  constexpr std::int64_t kRows = 150;
  const std::vector<float> qkv = random_floats(kRows * shape.qkv_cols(), 3);
  for (const auto& [estimator, outliers] : {std::pair{BlockEstimator::kPooled, 0},
                                            {BlockEstimator::kPooled, 2},
                                            {BlockEstimator::kAntidiagonal, 0},
                                            {BlockEstimator::kExact, 0}}) {
    const auto cpu = make_cpu_backend(GetParam(), 2);
    const RopeTable rope;
    LayerKv kv = make_kv(*cpu, shape, 37);  // grows beyond what it was made for
    BlockPlannerParams params{.rule = {.estimator = estimator, .k_block = 16, .pool = 8, .variance = true},
                              .thresholds = std::vector<float>(4, 0.6f),
                              .kv = &kv,
                              .scale = 0.25f,
                              .last_q = {}};
    params.rule.local_tokens = params.rule.sink_tokens = 0;
    params.rule.mean_correction = true;
    params.rule.outliers = outliers;
    params.rule.variance = outliers == 0;
    std::unique_ptr<BlockPlanner> planner;
    for (std::int64_t begin = 0, end = 37; begin < kRows;
         begin = end, end = std::min(kRows, end + 1 + end % 4)) {
      cpu->reserve(kv, end);
      const TestMatrix q =
          append(*cpu, kv, rope, shape,
                 std::span(qkv).subspan(static_cast<std::size_t>(begin * shape.qkv_cols()),
                                        static_cast<std::size_t>((end - begin) * shape.qkv_cols())),
                 static_cast<std::int32_t>(begin));
      if (!planner) planner = cpu->make_planner(params);
      BlockPlan grown, fresh;
      planner->plan(q.view(), range(begin, end), grown);
      cpu->make_planner(params)->plan(q.view(), range(begin, end), fresh);
      expect_same_plan(grown, fresh);
      ASSERT_EQ(grown.means->rows, fresh.means->rows);
      const cpu::KvLayout a = cpu::kv_layout(*grown.means, cpu->compute_dtype()),
                          b = cpu::kv_layout(*fresh.means, cpu->compute_dtype());
      const std::int64_t element = dtype_bytes(cpu->compute_dtype(), 1);
      for (std::int64_t row = 0; row < grown.means->rows; ++row) {
        for (std::int64_t d = 0; d < shape.head_dim; ++d) {
          EXPECT_EQ(0,
                    std::memcmp(grown.means->k.as<>() + (a.head_elements() + a.key_index(row, d)) * element,
                                fresh.means->k.as<>() + (b.head_elements() + b.key_index(row, d)) * element,
                                static_cast<std::size_t>(element)));
        }
      }
    }
  }
}

// Key blocks as wide as the stride, on a cache that grows by less than a stride of scores: the estimates grow
// although the scores' rows need not.
TEST_P(Planner, FollowsAGrowingCacheOfNarrowBlocks) {
  const HeadShape shape{1, 1, 16};
  const auto cpu = make_cpu_backend(GetParam(), 1);
  const RopeTable rope;
  LayerKv kv = make_kv(*cpu, shape, 1184);
  const std::vector<float> qkv = random_floats(1480 * shape.qkv_cols(), 5);
  const auto rows = [&](std::int64_t begin, std::int64_t end) {
    return std::span(qkv).subspan(static_cast<std::size_t>(begin * shape.qkv_cols()),
                                  static_cast<std::size_t>((end - begin) * shape.qkv_cols()));
  };
  const TestMatrix before = append(*cpu, kv, rope, shape, rows(0, 1184), 0);
  BlockPlannerParams params{
      .rule = {.estimator = BlockEstimator::kAntidiagonal, .q_block = 16, .k_block = 16, .stride = 16},
      .thresholds = {0.9f},
      .kv = &kv,
      .scale = 0.25f,
      .last_q = {}};
  const auto planner = cpu->make_planner(params);
  BlockPlan grown, fresh;
  planner->plan(before.view(), range(0, 1184), grown);
  cpu->reserve(kv, 1480);
  const TestMatrix after = append(*cpu, kv, rope, shape, rows(1184, 1480), 1184);
  planner->plan(after.view(), range(1184, 1480), grown);
  cpu->make_planner(params)->plan(after.view(), range(1184, 1480), fresh);
  expect_same_plan(grown, fresh);
}

TEST_P(Planner, ChunksAgreeWithTheReference) {
  Case c{.shape = {3, 1, 16}, .rows = 300, .query_rows = range(0, 300), .thresholds = {0.8f, 0.8f, 0.8f}};
  c.rule = {.estimator = BlockEstimator::kPooled};
  const BlockPlan whole = Problem(GetParam(), c).cpu_plan();
  const BlockPlan second = Problem(GetParam(), c).chunked_cpu_plan(128, 1);
  for (std::int64_t head = 0; head < 3; ++head) {
    for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(row_of(second, head, i), row_of(whole, head, 4 + i));
  }
}

// ---- mean correction

// Mean keys and values of both backends, rounded once each: half an ulp, and another of the sum in float32.
TEST_P(Planner, MeansAgreeWithTheReference) {
  for (const std::int64_t k_block : {16, 32, 64}) {
    Case c{.shape = {4, 2, 20},
           .rows = 171,
           .query_rows = range(0, 171),
           .thresholds = std::vector<float>(4, 0.5f)};
    c.rule = {.estimator = BlockEstimator::kNone, .k_block = k_block, .mean_correction = true};
    Problem problem(GetParam(), c);
    const BlockPlan actual = problem.cpu_plan(), expected = problem.reference_plan();
    ASSERT_EQ(actual.means->rows, 171 / k_block);
    ASSERT_EQ(expected.means->rows, 171 / k_block);
    const DType dtype = GetParam() == Precision::kBF16 ? DType::kBF16 : DType::kF32;
    const cpu::KvLayout layout = cpu::kv_layout(*actual.means, dtype);
    const auto element = [&](const Buffer& buffer, std::int64_t i) {
      return dtype == DType::kBF16 ? to_float(buffer.as<BF16>()[i]) : buffer.as<float>()[i];
    };
    std::vector<float> k, v, expected_k, expected_v;
    for (std::int64_t row = 0; row < actual.means->rows; ++row) {
      for (std::int64_t head = 0; head < 2; ++head) {
        for (std::int64_t d = 0; d < 20; ++d) {
          k.push_back(element(actual.means->k, head * layout.head_elements() + layout.key_index(row, d)));
          v.push_back(element(actual.means->v, head * layout.head_elements() + layout.value_index(row, d)));
          expected_k.push_back(element(expected.means->k, (row * 2 + head) * 20 + d));
          expected_v.push_back(element(expected.means->v, (row * 2 + head) * 20 + d));
        }
      }
    }
    expect_close(k, expected_k, stored_as(dtype, kLinear));
    expect_close(v, expected_v, stored_as(dtype, kLinear));
  }
}

TEST_P(Planner, PortableKernelsOnEveryTarget) {
  std::mt19937 random(5);
  for (const BlockEstimator estimator : {BlockEstimator::kPooled, BlockEstimator::kAntidiagonal}) {
    for (int round = 0; round < 4; ++round) {
      Problem problem(GetParam(), random_case(random, estimator), static_cast<unsigned>(round));
      for_each_target([&] { problem.compare(); });
    }
  }
}

}  // namespace
}  // namespace winnow::testing
