// A query of one row over a cache: what attention of decoding takes.
#pragma once

#include <cmath>
#include <initializer_list>
#include <memory>
#include <vector>

#include "support/backend_test_util.h"

namespace winnow::testing {

// `Cache` holds a LayerKv `kv` and is made from a backend, a shape and what `of_cache` says.
template <class Cache>
struct SingleQuery {
  Cache cache;
  TestMatrix q, out;
  std::int64_t row, window;

  template <class... OfCache>
  SingleQuery(Backend& backend, const HeadShape& shape, std::int64_t at, float deviation,
              std::int64_t window_in, const OfCache&... of_cache)
      : cache(backend, shape, of_cache...),
        q(backend, backend.compute_dtype(), 1, shape.q_cols(), random_floats(shape.q_cols(), 3, deviation)),
        out(backend, backend.compute_dtype(), 1, shape.q_cols()),
        row(at),
        window(window_in) {}
  AttentionParams params() const {
    return {.q = q.view(),
            .query_rows = {&row, 1},
            .kv = &cache.kv,
            .scale = 1.0f / std::sqrt(static_cast<float>(cache.kv.head_dim)),
            .out = out.view(),
            .window = window};
  }
};

// Queries over caches of these many rows, in one batch and one by one: the same bits. `Query` is made from a
// backend, a shape, the rows and the query's own.
template <class Query>
void expect_a_batch_is_its_queries(std::initializer_list<std::int64_t> lengths) {
  const auto cpu = make_cpu_backend(Precision::kBF16, 2);
  const HeadShape shape{9, 3, 64};
  std::vector<std::unique_ptr<Query>> together, alone;
  std::vector<AttentionParams> batch;
  for (const std::int64_t rows : lengths) {
    together.push_back(std::make_unique<Query>(*cpu, shape, rows, rows - 1));
    alone.push_back(std::make_unique<Query>(*cpu, shape, rows, rows - 1));
    batch.push_back(together.back()->params());
  }
  cpu->together([&] { cpu->attention_each(batch); });
  for (std::size_t i = 0; i < batch.size(); ++i) {
    cpu->attention(alone[i]->params());
    EXPECT_TRUE(together[i]->out.same_bits(alone[i]->out)) << i;
  }
}

}  // namespace winnow::testing
