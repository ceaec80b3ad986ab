// Window scores of a query that is not a number: what every backend promises of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/backend_test_util.h"

namespace winnow::testing {

// A stage that sees one that is not a number takes the latest tokens: none may hide behind another's maximum.
// Of `head`, the first of 64 queries over 70 rows is none: it sees 7.
inline void expect_nan_in_window_scores(Backend& backend, std::int64_t head, HeadReduction of_heads) {
  const HeadShape shape{4, 2, 64};
  const FilledCache cache(backend, shape, 70);
  std::vector<float> queries = random_floats(64 * shape.q_cols(), 5);
  std::fill_n(queries.begin() + head * shape.head_dim, shape.head_dim, NAN);
  const TestMatrix q(backend, backend.compute_dtype(), 64, shape.q_cols(), queries);
  for (const QueryReduction of_queries : {QueryReduction::kMax, QueryReduction::kMean}) {
    std::vector<float> scores(70);
    backend.window_scores({.q = q.view(),
                           .kv = &cache.kv,
                           .scale = 0.125f,
                           .queries = of_queries,
                           .reduction = of_heads,
                           .scores = scores});
    for (std::size_t row = 0; row < scores.size(); ++row)
      EXPECT_EQ(std::isnan(scores[row]), row < 7) << "head " << head << ", row " << row;
  }
}

}  // namespace winnow::testing
