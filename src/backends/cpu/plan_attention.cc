#include "backends/cpu/plan_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <numbers>
#include <vector>

#include "backends/cpu/attention_tiles.h"
#include "backends/cpu/parallel_tasks.h"
#include "core/check.h"

namespace winnow::cpu {
namespace {

constexpr float kUnseen = -std::numeric_limits<float>::infinity();

// Key blocks [begin, end).
struct BlockRange {
  std::int64_t begin, end;
};

// One call, seen as a matrix of plan heads x query blocks.
struct Call {
  const AttentionParams& params;
  const TileKernels& kernels;
  const BlockPlan& plan;
  CacheHeads heads;
  std::int64_t heads_per_plan;  // query heads that share one plan
  float scale_log2, mean_bias;  // log2(k_block)

  Call(const AttentionParams& params_in, const TileKernels& kernels_in);

  HeadRange range(std::int64_t plan_head) const { return {plan_head * heads_per_plan, heads_per_plan}; }
  std::int64_t kv_head(std::int64_t plan_head) const { return plan_head * heads_per_plan / heads.group; }
  std::int64_t queries() const { return params.q.rows; }
  BlockRange replaceable(std::int64_t query_block) const;
};

void check_means(const BlockPlan& plan, const LayerKv& kv, std::int64_t last_row) {
  check(plan.means->kv_heads == kv.kv_heads && plan.means->head_dim == kv.head_dim,
        "attention: the plan's means have other heads than the cache");
  check(plan.means->rows >= last_row / plan.k_block, "attention: the plan lacks means");
}

Call::Call(const AttentionParams& params_in, const TileKernels& kernels_in)
    : params(params_in),
      kernels(kernels_in),
      plan(*params_in.plan),
      heads(params_in.q.cols, *params_in.kv, kernels_in),
      heads_per_plan(plan.heads == heads.heads ? 1 : heads.group),
      scale_log2(params.scale * std::numbers::log2e_v<float>),
      mean_bias(std::log2(static_cast<float>(plan.k_block))) {
  check(plan.heads == heads.heads || plan.heads == params.kv->kv_heads,
        "attention: a plan per head or kv head");
  check(plan.q_block > 0 && plan.k_block > 0, "attention: the plan's blocks are positive");
  check(plan.query_blocks == block_count(queries(), plan.q_block) &&
            static_cast<std::int64_t>(plan.offsets.size()) == plan.heads * plan.query_blocks + 1,
        "attention: the plan is for other queries");
  if (plan.means) check_means(plan, *params.kv, params.query_rows.back());
}

// The key blocks that a query block's plan may replace by their means: those wholly before its first query
// and seen by its last one, hence by all.
BlockRange Call::replaceable(std::int64_t query_block) const {
  const std::int64_t first = query_block * plan.q_block, last = std::min(first + plan.q_block, queries()) - 1;
  const std::int64_t first_seen = params.kv->window(params.window).first_row(params.query_rows[last]);
  return {block_count(first_seen, plan.k_block), params.query_rows[first] / plan.k_block};
}

// ---- blocks that are multiples of 16

// Pairs [begin, end) of one query block.
struct PlannedTile {
  std::int64_t plan_head, query_block, begin, end;
};

// Consecutive tiles of one kv head.
struct Task {
  std::size_t begin, end;
  std::int64_t work;
};

std::vector<PlannedTile> list_tiles(const Call& call) {
  std::vector<PlannedTile> tiles;
  for (std::int64_t head = 0; head < call.plan.heads; ++head) {
    for (std::int64_t block = 0; block < call.plan.query_blocks; ++block) {
      const std::int64_t first = block * call.plan.q_block * call.heads_per_plan;
      const std::int64_t end =
          std::min((block + 1) * call.plan.q_block, call.queries()) * call.heads_per_plan;
      for (std::int64_t begin = first; begin < end; begin += kTileQueries) {
        tiles.push_back({head, block, begin, std::min(end, begin + kTileQueries)});
      }
    }
  }
  return tiles;
}

constexpr std::size_t kTilesPerTask = 6;  // a task is what a thread takes at a time

// Those with the most listed blocks first; kv head after kv head, whose keys and values then stay in the
// cache.
std::vector<Task> list_tasks(const Call& call, const std::vector<PlannedTile>& tiles) {
  std::vector<Task> tasks;
  for (std::size_t begin = 0; begin < tiles.size();) {
    Task task{begin, begin, 0};
    const std::int64_t kv_head = call.kv_head(tiles[begin].plan_head);
    while (task.end < tiles.size() && task.end - begin < kTilesPerTask &&
           call.kv_head(tiles[task.end].plan_head) == kv_head) {
      const PlannedTile& tile = tiles[task.end++];
      task.work += static_cast<std::int64_t>(call.plan.row(tile.plan_head, tile.query_block).size()) + 1;
    }
    begin = task.end;
    tasks.push_back(task);
  }
  std::stable_sort(tasks.begin(), tasks.end(), [&](const Task& a, const Task& b) {
    const std::int64_t head_a = call.kv_head(tiles[a.begin].plan_head),
                       head_b = call.kv_head(tiles[b.begin].plan_head);
    return head_a != head_b ? head_a < head_b : a.work < b.work;
  });
  return tasks;
}

using KeyBias = std::array<float, kTileKeys>;

struct PlanScratch : TileScratch {
  using TileScratch::TileScratch;
  std::deque<KeyBias> biases;  // of the steps over means
};

// Adds one block of 16 keys to the tile's steps. `from` is the first of them.
TileStep& add_block(std::vector<TileStep>& steps, std::size_t from, const TileStep& empty, std::int64_t row) {
  if (steps.size() == from || steps.back().blocks == kStepBlocks) steps.push_back(empty);
  TileStep& step = steps.back();
  step.rows[step.blocks++] = static_cast<std::int32_t>(row);
  return step;
}

void list_blocks(const Call& call, const PlannedTile& planned, QueryTile& tile,
                 std::vector<TileStep>& steps) {
  const std::int64_t kv_head = call.kv_head(planned.plan_head), k_block = call.plan.k_block;
  const TileStep empty{
      &tile, call.heads.keys(*call.params.kv, kv_head), call.heads.values(*call.params.kv, kv_head), {}, 0};
  const std::size_t from = steps.size();
  for (const std::int64_t block : call.plan.row(planned.plan_head, planned.query_block)) {
    const std::int64_t begin = std::max(block * k_block, tile.first / kKeyBlock * kKeyBlock);
    const std::int64_t end = std::min((block + 1) * k_block, tile.limit);
    for (std::int64_t row = begin; row < end; row += kKeyBlock) add_block(steps, from, empty, row);
  }
}

// The means of the blocks that are not listed, 16 at a time where there is one.
void list_means(const Call& call, const PlannedTile& planned, QueryTile& tile, PlanScratch& scratch) {
  const LayerKv& means = *call.plan.means;
  const std::int64_t kv_head = call.kv_head(planned.plan_head);
  const BlockRange range = call.replaceable(planned.query_block);
  const std::span<const std::int32_t> listed = call.plan.row(planned.plan_head, planned.query_block);
  const TileStep empty{&tile, call.heads.keys(means, kv_head), call.heads.values(means, kv_head), {}, 0};
  const std::size_t from = scratch.steps.size();
  auto next = listed.begin();
  for (std::int64_t row = range.begin / kKeyBlock * kKeyBlock; row < range.end; row += kKeyBlock) {
    std::array<float, kKeyBlock> bias;
    for (std::int64_t i = 0; i < kKeyBlock; ++i) {
      while (next != listed.end() && *next < row + i) ++next;
      const bool skipped =
          row + i >= range.begin && row + i < range.end && (next == listed.end() || *next != row + i);
      bias[i] = skipped ? call.mean_bias : kUnseen;
    }
    if (std::all_of(bias.begin(), bias.end(), [](float b) { return b == kUnseen; })) continue;
    TileStep& step = add_block(scratch.steps, from, empty, row);
    if (step.blocks == 1) step.bias = scratch.biases.emplace_back().data();
    std::copy(bias.begin(), bias.end(), scratch.biases.back().begin() + (step.blocks - 1) * kKeyBlock);
  }
}

// Tile after tile, whose queries and output stay in the L1 cache. Tiles that take turns from the front of the
// cache to its end share few blocks; see
// docs/kernels.md.
void run_task(const Call& call, std::span<const PlannedTile> planned, PlanScratch& scratch) {
  QueryTile& tile = scratch.tiles[0];
  for (std::size_t i = 0; i < planned.size(); ++i) {
    const PlannedTile& now = planned[i];
    const HeadRange range = call.range(now.plan_head);
    start_tile(tile, call.params, call.heads, range, now.begin, now.end);
    if (i + 1 < planned.size()) {
      const PlannedTile& next = planned[i + 1];
      prefetch_tile(call.params, call.heads, call.range(next.plan_head), next.begin, next.end);
    }
    scratch.steps.clear();
    scratch.biases.clear();
    list_blocks(call, now, tile, scratch.steps);
    if (call.plan.means) list_means(call, now, tile, scratch);
    call.kernels.attend(scratch.steps, call.heads.padded_dim, call.scale_log2, scratch.scores.as<float>());
    finish_tile(tile, call.params, call.heads, range, now.begin);
  }
}

void attend_tile_by_tile(const Call& call, int threads) {
  const std::vector<PlannedTile> tiles = list_tiles(call);
  const std::vector<Task> tasks = list_tasks(call, tiles);
  std::vector<PlanScratch> scratches;
  for (int t = 0; t < threads; ++t) scratches.emplace_back(call.heads, 1);
  parallel_tasks(
      threads, static_cast<std::int64_t>(tasks.size()), call.kernels, [&](std::int64_t i, int thread) {
        const Task& task = tasks[i];
        run_task(call, std::span(tiles).subspan(task.begin, task.end - task.begin), scratches[thread]);
      });
}

// ---- blocks of any shape

// A tile and the bias of every (query, key) of one step.
struct MaskedTile {
  const Call& call;
  TileScratch& scratch;
  std::int64_t plan_head, begin;  // first pair
  std::array<float, kTileQueries* kTileKeys> bias = {};

  QueryTile& tile() { return scratch.tiles[0]; }
  std::int64_t query_block(std::int64_t i) const {
    return call.range(plan_head).query(begin + i) / call.plan.q_block;
  }

  // One step over rows [first, first + keys) of `kv` with the biases that hold now.
  void attend(const LayerKv& kv, std::int64_t first, std::int64_t keys) {
    const std::int64_t kv_head = call.kv_head(plan_head);
    TileStep step{&tile(), call.heads.keys(kv, kv_head), call.heads.values(kv, kv_head), {}, 0};
    for (std::int64_t row = first; row < first + keys; row += kKeyBlock) {
      step.rows[step.blocks++] = static_cast<std::int32_t>(row);
    }
    step.bias = bias.data();
    step.bias_stride = kTileKeys;
    call.kernels.attend({&step, 1}, call.heads.padded_dim, call.scale_log2, scratch.scores.as<float>());
  }

  // Keys [first, first + kTileKeys): 0 where query i's blocks and causality allow, else -infinity. False if
  // nothing is left.
  bool mask_keys(std::int64_t first) {
    const std::int64_t k_block = call.plan.k_block;
    bool any = false;
    bias.fill(kUnseen);
    for (std::int64_t i = 0; i < tile().rows; ++i) {
      const std::int64_t seen = std::max(first, tile().firsts[i]);
      const std::int64_t limit = std::min(first + kTileKeys, tile().limits[i]);
      const std::span<const std::int32_t> listed = call.plan.row(plan_head, query_block(i));
      for (auto block = std::lower_bound(listed.begin(), listed.end(), seen / k_block);
           block != listed.end() && *block * k_block < limit; ++block) {
        any = true;
        for (std::int64_t key = std::max(*block * k_block, seen);
             key < std::min((*block + 1) * k_block, limit); ++key) {
          bias[i * kTileKeys + key - first] = 0;
        }
      }
    }
    return any;
  }

  // Means [first, first + kTileKeys): log2(k_block) where query i's block does not list them.
  void mask_means(std::int64_t first) {
    bias.fill(kUnseen);
    for (std::int64_t i = 0; i < tile().rows; ++i) {
      const std::span<const std::int32_t> listed = call.plan.row(plan_head, query_block(i));
      const BlockRange range = call.replaceable(query_block(i));
      const std::int64_t end = std::min(first + kTileKeys, range.end);
      for (std::int64_t block = std::max(first, range.begin); block < end; ++block) {
        if (std::binary_search(listed.begin(), listed.end(), block)) continue;
        bias[i * kTileKeys + block - first] = call.mean_bias;
      }
    }
  }
};

void attend_masked(const Call& call, std::int64_t plan_head, std::int64_t begin, TileScratch& scratch) {
  MaskedTile masked{call, scratch, plan_head, begin};
  QueryTile& tile = masked.tile();
  const HeadRange range = call.range(plan_head);
  const std::int64_t end = std::min(begin + kTileQueries, call.queries() * range.count);
  start_tile(tile, call.params, call.heads, range, begin, end);
  const auto keys_from = [](std::int64_t first, std::int64_t limit) {
    return block_count(std::min(kTileKeys, limit - first), kKeyBlock) * kKeyBlock;
  };
  for (std::int64_t first = tile.first / kTileKeys * kTileKeys; first < tile.limit; first += kTileKeys) {
    if (masked.mask_keys(first)) masked.attend(*call.params.kv, first, keys_from(first, tile.limit));
  }
  if (call.plan.means) {
    const std::int64_t count = call.replaceable(masked.query_block(tile.rows - 1)).end;
    for (std::int64_t first = call.replaceable(masked.query_block(0)).begin / kTileKeys * kTileKeys;
         first < count; first += kTileKeys) {
      masked.mask_means(first);
      masked.attend(*call.plan.means, first, keys_from(first, count));
    }
  }
  finish_tile(tile, call.params, call.heads, range, begin);
}

void attend_masked(const Call& call, int threads) {
  const std::int64_t tiles_per_head = block_count(call.queries() * call.heads_per_plan, kTileQueries);
  std::vector<TileScratch> scratches;
  for (int t = 0; t < threads; ++t) scratches.emplace_back(call.heads, 1);
  parallel_tasks(threads, call.plan.heads * tiles_per_head, call.kernels, [&](std::int64_t task, int thread) {
    attend_masked(call, task / tiles_per_head, task % tiles_per_head * kTileQueries, scratches[thread]);
  });
}

}  // namespace

bool is_full(const BlockPlan& plan, std::span<const std::int64_t> query_rows, const SlidingWindow& window) {
  const auto queries = static_cast<std::int64_t>(query_rows.size());
  for (std::int64_t head = 0; head < plan.heads; ++head) {
    for (std::int64_t block = 0; block < plan.query_blocks; ++block) {
      const std::int64_t first = window.first_row(query_rows[block * plan.q_block]) / plan.k_block;
      const std::int64_t last = query_rows[std::min(queries, (block + 1) * plan.q_block) - 1] / plan.k_block;
      const std::span<const std::int32_t> row = plan.row(head, block);
      const std::span<const std::int32_t> listed(std::lower_bound(row.begin(), row.end(), first), row.end());
      // Blocks ascend: the last of the needed ones is in its place only if all are there.
      if (std::ssize(listed) <= last - first || listed[last - first] != last) return false;
    }
  }
  return true;
}

void plan_attention(const AttentionParams& params, const TileKernels& kernels, int threads) {
  const Call call(params, kernels);
  if (call.plan.q_block % kKeyBlock == 0 && call.plan.k_block % kKeyBlock == 0) {
    attend_tile_by_tile(call, threads);
  } else {
    attend_masked(call, threads);
  }
}

}  // namespace winnow::cpu
