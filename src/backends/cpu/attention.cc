#include "backends/cpu/attention.h"

#include <algorithm>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

#include "backends/cpu/attention_tiles.h"
#include "backends/cpu/parallel_tasks.h"
#include "backends/cpu/plan_attention.h"
#include "backends/cpu/row_scores.h"
#include "backends/cpu/window_softmax.h"
#include "core/check.h"
#include "core/higher.h"

namespace winnow::cpu {
namespace {

// Tiles that share each block of keys and values while it is in the cache, so that the cache streams through
// a core once for kTilesPerTask * kTileQueries rows of queries; tiles and block together stay well inside a 1
// MiB L2.
constexpr std::int64_t kTilesPerTask = 6;

// Block after block of keys, each for all tiles that see it.
void list_steps(TileScratch& scratch, const std::byte* keys, const std::byte* values, std::int64_t limit) {
  scratch.steps.clear();
  for (std::int64_t key = scratch.tiles[0].first / kTileKeys * kTileKeys; key < limit; key += kTileKeys) {
    for (QueryTile& tile : scratch.tiles) {
      if (key >= tile.limit || key + kTileKeys <= tile.first) continue;
      TileStep& step = scratch.steps.emplace_back(TileStep{&tile, keys, values, {}, 0});
      const std::int64_t end = std::min(key + kTileKeys, (tile.limit + 31) / 32 * 32);
      for (std::int64_t row = std::max(key, tile.first / 32 * 32); row < end; row += kKeyBlock) {
        step.rows[step.blocks++] = static_cast<std::int32_t>(row);
      }
    }
  }
}

void dense_attention(const AttentionParams& params, const TileKernels& kernels, int threads) {
  const CacheHeads heads(params.q.cols, *params.kv, kernels);
  constexpr std::int64_t kTaskPairs = kTilesPerTask * kTileQueries;
  const std::int64_t pairs = params.q.rows * heads.group, kv_heads = params.kv->kv_heads;
  const std::int64_t tasks_per_head = (pairs + kTaskPairs - 1) / kTaskPairs;
  const float scale_log2 = params.scale * std::numbers::log2e_v<float>;
  std::vector<TileScratch> scratches;
  for (int t = 0; t < threads; ++t) scratches.emplace_back(heads, kTilesPerTask);

  parallel_tasks(threads, tasks_per_head * kv_heads, kernels, [&](std::int64_t task, int thread) {
    TileScratch& scratch = scratches[thread];
    const std::int64_t kv_head = task % kv_heads;
    const std::int64_t begin = task / kv_heads * kTaskPairs, end = std::min(pairs, begin + kTaskPairs);
    const HeadRange range{kv_head * heads.group, heads.group};
    for (std::int64_t t = 0; t < kTilesPerTask; ++t) {
      const std::int64_t first = begin + t * kTileQueries;
      start_tile(scratch.tiles[t], params, heads, range, first, std::min(end, first + kTileQueries));
    }
    list_steps(scratch, heads.keys(*params.kv, kv_head), heads.values(*params.kv, kv_head),
               params.query_rows[range.query(end - 1)] + 1);
    kernels.attend(scratch.steps, heads.padded_dim, scale_log2, scratch.scores.as<float>());
    for (std::int64_t t = 0; t < kTilesPerTask; ++t) {
      finish_tile(scratch.tiles[t], params, heads, range, begin + t * kTileQueries);
    }
  });
}

}  // namespace

void attention(const AttentionParams& params, const TileKernels& kernels, int threads) {
  const std::int64_t rows = params.q.rows;
  check(static_cast<std::int64_t>(params.query_rows.size()) == rows, "attention: one cache row a query");
  if (rows == 0) return;
  check(params.q.dtype == kernels.dtype, "attention: q has another type than the cache");
  check(params.query_rows.back() < params.kv->rows, "attention: a query beyond the cache");
  check(params.window >= 0, "attention: the window is not negative");
  if (params.plan == nullptr || is_full(*params.plan, params.query_rows, params.kv->window(params.window))) {
    dense_attention(params, kernels, threads);
  } else {
    plan_attention(params, kernels, threads);
  }
}

namespace {

// The softmax of one head's window queries, their mean or maximum, into scores[0..rows), which are zeros.
// What a query sees that has no softmax becomes NaN: whoever chooses by these scores must know.
void add_window_attention(const WindowScoresParams& params, const TileKernels& kernels, std::int64_t head,
                          RowScores& s, float* scores) {
  const std::int64_t rows = params.kv->rows, queries = params.q.rows;
  const SlidingWindow window = params.kv->window(params.sliding_window);
  std::vector<std::span<float>> unknown;
  for (std::int64_t begin = 0; begin < queries; begin += kTileQueries) {
    const std::int64_t count = std::min(kTileQueries, queries - begin), row = rows - queries + begin;
    s.compute(kernels, *params.kv, params.q, head, begin, count, window.first_row(row), row + count);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t first = window.first_row(row + i), seen = row + i + 1 - first;
      if (!has_softmax(s.row(i) + first, seen)) {
        unknown.emplace_back(scores + first, static_cast<std::size_t>(seen));
      } else if (params.queries == QueryReduction::kMax) {
        max_softmax(s.row(i) + first, seen, params.scale, scores + first);
      } else {
        add_softmax(s.row(i) + first, seen, params.scale, 1.0f / static_cast<float>(queries), scores + first);
      }
    }
  }
  for (const std::span<float> seen : unknown)
    std::fill(seen.begin(), seen.end(), std::numeric_limits<float>::quiet_NaN());
}

// per_head [asked, rows] -> scores [rows].
void reduce_heads(const float* per_head, std::int64_t asked, HeadReduction reduction,
                  std::span<float> scores) {
  const auto rows = static_cast<std::int64_t>(scores.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    float reduced = per_head[row];
    for (std::int64_t head = 1; head < asked; ++head) {
      const float score = per_head[head * rows + row];
      reduced = reduction == HeadReduction::kMax ? higher(reduced, score) : reduced + score;
    }
    scores[row] = reduction == HeadReduction::kMax ? reduced : reduced / static_cast<float>(asked);
  }
}

}  // namespace

void window_scores(const WindowScoresParams& params, const TileKernels& kernels, int threads) {
  const CacheHeads heads(params.q.cols, *params.kv, kernels);
  const std::int64_t rows = params.kv->rows;
  const std::int64_t asked = params.heads.empty() ? heads.heads : std::ssize(params.heads);
  check(params.q.rows > 0 && params.q.rows <= rows, "window_scores: the window does not fit the cache");
  check(std::ssize(params.scores) == rows * (params.per_head ? asked : 1), "window_scores: one score a row");
  for (const std::int32_t head : params.heads) {
    check(head >= 0 && head < heads.heads, "window_scores: a head of the model");
  }
  Buffer unreduced;
  if (!params.per_head) unreduced = Buffer::host(asked * rows * 4);
  float* per_head = params.per_head ? params.scores.data() : unreduced.as<float>();
  std::vector<RowScores> s;
  for (int t = 0; t < threads; ++t) s.emplace_back(heads, rows);
  parallel_tasks(threads, asked, kernels, [&](std::int64_t i, int thread) {
    float* scores = per_head + i * rows;
    std::fill_n(scores, rows, 0.0f);
    add_window_attention(params, kernels, params.heads.empty() ? i : params.heads[i], s[thread], scores);
  });
  if (!params.per_head) reduce_heads(per_head, asked, params.reduction, params.scores);
}

}  // namespace winnow::cpu
