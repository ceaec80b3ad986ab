#include "backends/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include "backends/cpu/kv_layout.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/window_softmax.h"
#include "core/check.h"

namespace winnow::cpu {
namespace {

// Tiles that share each block of keys and values while it is in the cache, so that the cache streams through
// a core once for kTilesPerTask * kTileQueries rows of queries; tiles and block together stay well inside a 1
// MiB L2.
constexpr std::int64_t kTilesPerTask = 6;

// Geometry that attention and window scores share.
struct Heads {
  KvLayout layout;
  std::int64_t heads, group;  // query heads, and how many of them share one kv head
  std::int64_t dim, padded_dim, element_bytes;

  Heads(const MatrixView& q, const LayerKv& kv, const TileKernels& kernels)
      : layout(kv_layout(kv, kernels.dtype)),
        heads(q.cols / kv.head_dim),
        group(heads / kv.kv_heads),
        dim(kv.head_dim),
        padded_dim(layout.padded_dim()),
        element_bytes(dtype_bytes(kernels.dtype, 1)) {
    check(q.dtype == kernels.dtype, "attention: q has another type than the cache");
    check(q.cols == heads * dim && heads % kv.kv_heads == 0, "attention: heads do not fit the cache");
  }

  const std::byte* keys(const LayerKv& kv, std::int64_t kv_head, std::int64_t row) const {
    return kv.k.as<>() + (kv_head * layout.head_elements() + row * padded_dim) * element_bytes;
  }
  const std::byte* values(const LayerKv& kv, std::int64_t kv_head, std::int64_t row) const {
    return kv.v.as<>() + (kv_head * layout.head_elements() + row * padded_dim) * element_bytes;
  }
  // Copies the query at (row, head) to row `slot` of a zeroed tile [kTileQueries, padded_dim].
  void gather_query(const MatrixView& q, std::int64_t row, std::int64_t head, std::byte* tile,
                    std::int64_t slot) const {
    std::memcpy(tile + slot * padded_dim * element_bytes, q.row<std::byte>(row) + head * dim * element_bytes,
                static_cast<std::size_t>(dim * element_bytes));
  }
};

// Runs fn(task) for tasks 0..count-1, highest first: causal tasks grow with their number, and the longest
// should not come last.
template <class Fn>
void parallel_tasks(int threads, std::int64_t count, const TileKernels& kernels, Fn&& fn) {
  std::atomic<std::int64_t> left{count};
  parallel(threads, [&](int thread) {
    if (kernels.enter != nullptr) kernels.enter();
    for (std::int64_t task; (task = --left) >= 0;) fn(task, thread);
    if (kernels.leave != nullptr) kernels.leave();
  });
}

// One thread's working memory.
struct Scratch {
  std::vector<QueryTile> tiles;
  std::vector<TileStep> steps;
  Buffer s;

  explicit Scratch(const Heads& heads) : tiles(kTilesPerTask), s(Buffer::host(kScratchFloats * 4)) {
    for (QueryTile& tile : tiles) {
      tile.q = Buffer::host(kTileQueries * heads.padded_dim * heads.element_bytes);
      tile.o = Buffer::host(kTileQueries * heads.padded_dim * 4);
    }
  }
};

// Pairs of (query, head of the GQA group) of one kv head: pair = query * group + head. The heads of a group
// lie side by side, so that a tile spans few positions (little work is lost on the diagonal) and one decoded
// token's heads share a tile.
struct Pair {
  std::int64_t query, head;
  Pair(std::int64_t pair, std::int64_t kv_head, const Heads& heads)
      : query(pair / heads.group), head(kv_head * heads.group + pair % heads.group) {}
};

void start_tile(QueryTile& tile, const AttentionParams& params, const Heads& heads, std::int64_t kv_head,
                std::int64_t begin, std::int64_t end) {
  tile.rows = std::max<std::int64_t>(0, end - begin);
  tile.limit = 0;
  if (tile.rows == 0) return;
  std::memset(tile.q.as<>(), 0, static_cast<std::size_t>(tile.q.bytes()));
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    const Pair pair(begin + i, kv_head, heads);
    heads.gather_query(params.q, pair.query, pair.head, tile.q.as<>(), i);
    tile.limits[i] = params.query_rows[pair.query] + 1;
  }
  tile.limit = tile.limits[tile.rows - 1];
  std::memset(tile.o.as<>(), 0, static_cast<std::size_t>(tile.o.bytes()));
  std::memset(tile.sums, 0, sizeof tile.sums);
  std::fill_n(tile.maximum, kTileQueries, -std::numeric_limits<float>::infinity());
}

void finish_tile(const QueryTile& tile, const AttentionParams& params, const Heads& heads,
                 std::int64_t kv_head, std::int64_t begin) {
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    float sum = 0;
    for (const float lane : tile.sums[i]) sum += lane;
    const float inverse = 1.0f / sum;
    const float* o = tile.o.as<float>() + i * heads.padded_dim;
    const Pair pair(begin + i, kv_head, heads);
    if (params.out.dtype == DType::kF32) {
      float* out = params.out.row<float>(pair.query) + pair.head * heads.dim;
      for (std::int64_t d = 0; d < heads.dim; ++d) out[d] = o[d] * inverse;
    } else {
      BF16* out = params.out.row<BF16>(pair.query) + pair.head * heads.dim;
      for (std::int64_t d = 0; d < heads.dim; ++d) out[d] = to_bf16(o[d] * inverse);
    }
  }
}

// Block after block of keys, each for all tiles that see it.
void list_steps(Scratch& scratch, const LayerKv& kv, const Heads& heads, std::int64_t kv_head,
                std::int64_t limit) {
  scratch.steps.clear();
  for (std::int64_t key = 0; key < limit; key += kTileKeys) {
    const void* k = heads.keys(kv, kv_head, key);
    const void* v = heads.values(kv, kv_head, key);
    for (QueryTile& tile : scratch.tiles) {
      if (key >= tile.limit) continue;
      scratch.steps.push_back({&tile, k, v, key, std::min(kTileKeys, (tile.limit - key + 31) / 32 * 32)});
    }
  }
}

}  // namespace

void attention(const AttentionParams& params, const TileKernels& kernels, int threads) {
  const Heads heads(params.q, *params.kv, kernels);
  const std::int64_t rows = params.q.rows;
  check(static_cast<std::int64_t>(params.query_rows.size()) == rows, "attention: one cache row a query");
  if (rows == 0) return;
  check(params.query_rows.back() < params.kv->rows, "attention: a query beyond the cache");
  constexpr std::int64_t kTaskPairs = kTilesPerTask * kTileQueries;
  const std::int64_t pairs = rows * heads.group, kv_heads = params.kv->kv_heads;
  const std::int64_t tasks_per_head = (pairs + kTaskPairs - 1) / kTaskPairs;
  const float scale_log2 = params.scale * std::numbers::log2e_v<float>;
  std::vector<Scratch> scratches;
  for (int t = 0; t < threads; ++t) scratches.emplace_back(heads);

  parallel_tasks(threads, tasks_per_head * kv_heads, kernels, [&](std::int64_t task, int thread) {
    Scratch& scratch = scratches[thread];
    const std::int64_t kv_head = task % kv_heads;
    const std::int64_t begin = task / kv_heads * kTaskPairs, end = std::min(pairs, begin + kTaskPairs);
    for (std::int64_t t = 0; t < kTilesPerTask; ++t) {
      const std::int64_t first = begin + t * kTileQueries;
      start_tile(scratch.tiles[t], params, heads, kv_head, first, std::min(end, first + kTileQueries));
    }
    list_steps(scratch, *params.kv, heads, kv_head, params.query_rows[(end - 1) / heads.group] + 1);
    kernels.attend(scratch.steps, heads.padded_dim, scale_log2, scratch.s.as<float>());
    for (std::int64_t t = 0; t < kTilesPerTask; ++t) {
      finish_tile(scratch.tiles[t], params, heads, kv_head, begin + t * kTileQueries);
    }
  });
}

namespace {

// Adds the softmax of one head's window queries, averaged over the window, to scores[0..rows).
void add_window_attention(const WindowScoresParams& params, const Heads& heads, const TileKernels& kernels,
                          std::int64_t head, float* s, std::int64_t s_stride, std::byte* tile,
                          float* scores) {
  const std::int64_t rows = params.kv->rows, window = params.q.rows;
  const std::int64_t kv_head = head / heads.group;
  for (std::int64_t begin = 0; begin < window; begin += kTileQueries) {
    const std::int64_t count = std::min(kTileQueries, window - begin);
    std::memset(tile, 0, static_cast<std::size_t>(kTileQueries * heads.padded_dim * heads.element_bytes));
    for (std::int64_t i = 0; i < count; ++i) heads.gather_query(params.q, begin + i, head, tile, i);
    kernels.scores(tile, heads.keys(*params.kv, kv_head, 0), heads.padded_dim, (rows + 31) / 32 * 32, s,
                   s_stride);
    for (std::int64_t i = 0; i < count; ++i) {
      add_softmax(s + i * s_stride, rows - window + begin + i + 1, params.scale,
                  1.0f / static_cast<float>(window), scores);
    }
  }
}

}  // namespace

void window_scores(const WindowScoresParams& params, const TileKernels& kernels, int threads) {
  const Heads heads(params.q, *params.kv, kernels);
  const std::int64_t rows = params.kv->rows;
  check(params.q.rows > 0 && params.q.rows <= rows, "window_scores: the window does not fit the cache");
  check(static_cast<std::int64_t>(params.scores.size()) == rows, "window_scores: one score a row");
  const std::int64_t stride = (rows + 31) / 32 * 32;
  const Buffer per_head = Buffer::host(heads.heads * rows * 4);
  std::vector<Buffer> s, tile;
  for (int t = 0; t < threads; ++t) {
    s.push_back(Buffer::host(kTileQueries * stride * 4));
    tile.push_back(Buffer::host(kTileQueries * heads.padded_dim * heads.element_bytes));
  }
  parallel_tasks(threads, heads.heads, kernels, [&](std::int64_t head, int thread) {
    float* scores = per_head.as<float>() + head * rows;
    std::fill_n(scores, rows, 0.0f);
    add_window_attention(params, heads, kernels, head, s[thread].as<float>(), stride, tile[thread].as<>(),
                         scores);
  });
  for (std::int64_t row = 0; row < rows; ++row) {
    float reduced = per_head.as<float>()[row];
    for (std::int64_t head = 1; head < heads.heads; ++head) {
      const float score = per_head.as<float>()[head * rows + row];
      reduced = params.reduction == HeadReduction::kMax ? std::max(reduced, score) : reduced + score;
    }
    params.scores[row] =
        params.reduction == HeadReduction::kMax ? reduced : reduced / static_cast<float>(heads.heads);
  }
}

}  // namespace winnow::cpu
