// Rows of a cache that queries stand on, for the GPU benchmarks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace winnow::cuda {

// Ascending: the last `queries` rows, or, with gaps, as many of any (as behind a pruning stage).
inline std::vector<std::int32_t> query_rows(std::int64_t kv_rows, std::int64_t queries, bool gaps,
                                            std::mt19937_64& random) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(kv_rows));
  std::iota(rows.begin(), rows.end(), 0);
  if (gaps) std::shuffle(rows.begin(), rows.end(), random);
  rows.erase(rows.begin(), rows.end() - queries);
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace winnow::cuda
