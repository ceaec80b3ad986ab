#include "sparsity/kv_eviction.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

using Rows = std::vector<std::int64_t>;

TEST(KvEviction, SnapKvByHand) {
  const KvEviction eviction{EvictionKind::kSnapKv, 0.5, 2, 3};
  // 10 rows, 5 stay: the last 2, and of the first 8 the 3 best after pooling over 3: 9 spreads to rows 2,
  // 3, 4.
  EXPECT_EQ(rows_that_stay(eviction, std::vector<float>{1, 0, 0, 9, 0, 0, 2, 0, 50, 50}),
            (Rows{2, 3, 4, 8, 9}));
  // The window's scores do not leak into its neighbours; rows 0 and 1 pool to 5, and of equal scores the
  // later stays.
  const KvEviction less{EvictionKind::kSnapKv, 0.3, 2, 3};
  EXPECT_EQ(rows_that_stay(less, std::vector<float>{5, 0, 0, 0, 0, 0, 0, 0, 9, 9}), (Rows{1, 8, 9}));
}

TEST(KvEviction, H2oByHand) {
  // 10 rows, 4 stay: the last 2, and the 2 best of the others.
  EXPECT_EQ(rows_that_stay({EvictionKind::kH2o, 0.4}, std::vector<float>{3, 1, 4, 1, 5, 0, 2, 6, 0, 0}),
            (Rows{4, 7, 8, 9}));
}

TEST(KvEviction, Counts) {
  const std::vector<float> scores(100, 1.0f);
  for (const EvictionKind kind : {EvictionKind::kSnapKv, EvictionKind::kH2o}) {
    EXPECT_EQ(rows_that_stay({kind, 1.0}, scores).size(), 100u);
    EXPECT_EQ(rows_that_stay({kind, 0.29}, scores).size(), 29u);  // .29 x 100 is 28.999...
    const Rows few = rows_that_stay({kind, 0.001}, scores);
    EXPECT_EQ(few, (Rows{99}));  // at least one, the last
    const Rows some = rows_that_stay({kind, 0.5}, scores);
    EXPECT_EQ(some.front(), 50);  // equal scores: the later rows
  }
  EXPECT_EQ(rows_that_stay({EvictionKind::kSnapKv, 0.5}, std::vector<float>{1}), (Rows{0}));
}

}  // namespace
}  // namespace winnow
