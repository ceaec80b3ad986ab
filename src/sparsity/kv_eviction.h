// Eviction of cached keys and values after a prefill: the prompt is computed in full (or under a policy's
// stages), and then every layer's cache is cut. Baselines for token pruning at equal cache bytes.
//
// Both published methods choose rows for each kv head. winnow's caches have one list of rows a layer, so here
// the heads of a layer vote together (mean) and keep the same rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace winnow {

enum class EvictionKind : std::uint8_t {
  kSnapKv,  // arXiv 2404.14469: rows that the last queries look at, max-pooled over neighbours, and those
            // queries' own
  kH2o,     // arXiv 2306.14048: half of the rows by the attention that all queries pay, half the latest
};

struct KvEviction {
  EvictionKind kind = EvictionKind::kSnapKv;
  double keep = 1.0;         // share of each layer's rows, (0, 1]
  std::int64_t window = 32;  // last queries that vote (snapkv)
  std::int64_t pool = 7;     // width of the max-pool (snapkv), odd
};

// "snapkv", "h2o".
const char* eviction_name(EvictionKind kind);

// The rows (ascending) that stay of a cache of scores.size() rows: max(1, floor(rows x keep + 1e-9)), the
// last ones among them. scores [rows]: what the voting queries pay to each row. Of equal scores the later row
// stays.
std::vector<std::int64_t> rows_that_stay(const KvEviction& eviction, std::span<const float> scores);

}  // namespace winnow
