// SlidingWindow: what the queries of a layer with a sliding window see of its cache.
//
// A query sees the rows up to its own whose positions are less than `size` before its own (as Hugging Face's
// sliding_window_causal_mask). The positions are those of the rotary embeddings (LayerKv::positions): after
// token pruning a window holds fewer rows than positions; where pruning renumbers them (`positions:
// compact`), a window reaches as far as the model has learned to look, hence farther back in the text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace winnow {

struct SlidingWindow {
  std::span<const std::int32_t> positions =
      {};                 // [cache rows], ascending strictly; not read without a window
  std::int64_t size = 0;  // 0: no window, everything up to a query's own row is seen

  // The first cache row that the query at cache row `row` sees.
  std::int64_t first_row(std::int64_t row) const {
    if (size == 0) return 0;
    const std::int64_t farthest = std::int64_t{positions[row]} - size + 1;
    const auto begin = positions.begin() + std::max<std::int64_t>(0, row - size + 1);
    return std::lower_bound(begin, positions.begin() + row, farthest) - positions.begin();
  }
};

}  // namespace winnow
