#include "sparsity/kv_eviction.h"

#include <algorithm>
#include <numeric>

#include "sparsity/token_pruner.h"

namespace winnow {

const char* eviction_name(EvictionKind kind) {
  switch (kind) {
    case EvictionKind::kSnapKv: return "snapkv";
    case EvictionKind::kH2o: return "h2o";
  }
  return "?";
}

std::vector<std::int64_t> rows_that_stay(const KvEviction& eviction, std::span<const float> scores) {
  const auto rows = static_cast<std::int64_t>(scores.size());
  const auto share = static_cast<std::int64_t>(static_cast<double>(rows) * eviction.keep + 1e-9);
  const std::int64_t keep = std::min(rows, std::max<std::int64_t>(1, share));
  const bool snapkv = eviction.kind == EvictionKind::kSnapKv;
  const std::int64_t latest = snapkv ? std::min(eviction.window, keep) : (keep + 1) / 2;

  std::vector<float> votes(scores.begin(), scores.end() - latest);
  if (snapkv) max_pool(votes, eviction.pool);
  std::vector<std::int64_t> order(votes.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return votes[a] != votes[b] ? votes[a] > votes[b] : a > b;
  });
  order.resize(static_cast<std::size_t>(keep - latest));
  std::sort(order.begin(), order.end());
  for (std::int64_t row = rows - latest; row < rows; ++row) order.push_back(row);
  return order;
}

}  // namespace winnow
