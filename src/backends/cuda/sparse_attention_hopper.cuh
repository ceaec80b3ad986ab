// The tensor-core kernel of attend_blocks(): a flash-attention loop over the listed key blocks of each query
// tile.
//
// A block of threads is two producer warps and kWarpgroups consumer warpgroups of 64 queries each. It stays
// on its SM and takes one tile (head, 64 * kWarpgroups queries) after the other, longest first: from a list,
// or, where the plan is full, from the last queries backwards.
//   producers: read the plan's bits from the highest down and gather kKeys keys (values) a step with the copy
//     engine, a slice of min(k_block, kKeys) rows at a time from anywhere in the cache; so a step is full
//     whatever k_block is, except a tile's first. They run kStages steps ahead, also into the next tile.
//   consumers: S = Q K^T and O += P V with wgmma, P in registers. The scores of a step are issued together
//     with the values of the step before; while one warpgroup computes its softmax, the products of the other
//     keep the tensor cores busy (the ping-pong of FlashAttention-3, arXiv 2407.08608, section 3.1).
// What the producers write down about steps and tiles is ordered by the same barriers as the copies: every
// thread that wrote or read it arrives by itself, so that a race checker can follow.
// Mean correction is more steps, over the mean keys, with the listed blocks masked out; they come first. Then
// come those that reach behind the tile's first query, whose elements right of the diagonal are masked. All
// others run in a loop that knows nothing of masks.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "backends/cuda/hopper_memory.cuh"
#include "backends/cuda/hopper_wgmma.cuh"

namespace winnow::cuda::hopper {

// The next tile of the launch at work: 0 again when it ends. Launches on a device follow each other.
static __device__ int next_tile = 0;

struct AttentionArgs {
  CUtensorMap q, k, v, out, mean_k, mean_v;
  const std::uint32_t* listed;   // null: a full plan
  std::int64_t words;            // of a plan row
  int plan_query_blocks;         // rows of words of a plan head
  int heads, group, plan_group;  // query heads; of a kv head; of a plan head
  int tiles, query_tiles;        // in all; of a head
  int tiles_per_block;           // q_block / rows of a tile
  int k_block, slice_rows;       // rows that are loaded at once: min(k_block, kKeys)
  int queries;
  const std::int32_t* query_rows;  // null: first_row + i
  int first_row;
  int means;                  // mean keys; 0: no correction
  float mean_bias;            // ln(k_block) / scale
  float scale_log2;           // scale * log2(e)
  const std::int32_t* order;  // of the tiles; not for a full plan
};

template <int kHeadDim, int kConsumers>
struct Shape {
  static constexpr int kDim = kHeadDim, kWarpgroups = kConsumers;
  static constexpr int kRows = 64 * kWarpgroups, kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kKeys = kWarpgroups == 1 || kDim > 128 ? 64 : 128;
  static constexpr int kChunks = (kDim + 63) / 64;  // a tile in shared memory is chunks of 64 columns
  static constexpr int kStages = 2;
  static constexpr int kQueryBuffers = kDim > 128 ? 1 : 2;
  static constexpr int kQueryBytes = 64 * 128 * kChunks;  // of one warpgroup
  static constexpr int kKeyBytes = kKeys * 128 * kChunks;
  static constexpr int kMaxSlices = kKeys / 16;
  static constexpr int kBlocksPerSm = kWarpgroups == 1 && kDim <= 128 ? 2 : 1;
  static constexpr bool kMovesRegisters = kWarpgroups == 2 || kBlocksPerSm == 2;  // else there are enough
  static constexpr int kProducerRegisters = 40, kConsumerRegisters = kWarpgroups == 1 ? 216 : 232;
};

enum StepKind : int { kMasked, kMeans };

struct StepInfo {
  int kind;
  int begin, end;           // kMeans: the first of the step's blocks, and the first that does not count
  int rows[8];              // kMasked: the first cache row of each slice
  std::uint32_t listed[4];  // kMeans: the plan's bits from `begin` on
};
struct TileInfo {
  int steps;    // -1: no tile is left
  int special;  // of these the first ones, but for step 0, that may be masked
  int head, first_query;
};

template <class Shape>
struct SharedMemory {
  alignas(1024) std::uint8_t q[Shape::kQueryBuffers][Shape::kWarpgroups][Shape::kQueryBytes];
  alignas(1024) std::uint8_t k[Shape::kStages][Shape::kKeyBytes];
  alignas(1024) std::uint8_t v[Shape::kStages][Shape::kKeyBytes];
  std::uint64_t q_full[Shape::kQueryBuffers], q_empty[Shape::kQueryBuffers];
  std::uint64_t k_full[Shape::kStages], k_empty[Shape::kStages], v_full[Shape::kStages],
      v_empty[Shape::kStages];
  StepInfo steps[Shape::kStages];
  TileInfo tiles[Shape::kQueryBuffers];
};

// The words of a plan's row; without any, of one that lists the first `blocks` blocks.
struct PlanRow {
  const std::uint32_t* words;
  int count, blocks;
  __device__ std::uint32_t operator[](int i) const {
    if (words != nullptr) return words[i];
    return blocks >= 32 * i + 32 ? 0xffffffffu : (1u << (blocks - 32 * i)) - 1;
  }
};

// The set bits of a plan row from the highest down, by a whole warp: lane i holds word i of 32.
class ListedBlocks {
 public:
  __device__ ListedBlocks(const PlanRow& row, int lane)
      : row_(row), lane_(lane), base_((row.count + 31) / 32 * 32) {}

  __device__ int total() const {
    int bits = 0;
    for (int i = lane_; i < row_.count; i += 32) bits += __popc(row_[i]);
    return static_cast<int>(__reduce_add_sync(0xffffffffu, static_cast<unsigned>(bits)));
  }
  __device__ int next() {  // there is one more
    while (bits_ == 0) {
      while (full_ == 0) {
        base_ -= 32;
        word_ = base_ + lane_ < row_.count ? row_[base_ + lane_] : 0;
        full_ = __ballot_sync(0xffffffffu, word_ != 0);
      }
      at_ = 31 - __clz(full_);
      full_ ^= 1u << at_;
      bits_ = __shfl_sync(0xffffffffu, word_, at_);
    }
    const int bit = 31 - __clz(bits_);
    bits_ ^= 1u << bit;
    return (base_ + at_) * 32 + bit;
  }

 private:
  PlanRow row_;
  int lane_, base_, at_ = 0;
  std::uint32_t word_ = 0, full_ = 0, bits_ = 0;
};

__device__ inline PlanRow listed_row(const AttentionArgs& args, int head, int q_tile) {
  const std::int64_t row = static_cast<std::int64_t>(head / args.plan_group) * args.plan_query_blocks +
                           q_tile / args.tiles_per_block;
  return {args.listed + row * args.words, static_cast<int>(args.words), 0};
}

// What of a tile is the same for all its steps.
struct TilePlan {
  int head, first_row;
  int slices;  // listed, of slice_rows each
  int mean_blocks, mean_steps, list_steps, steps;
};

// One warp hands out tiles and brings queries and keys, another the values.
template <class Shape, bool kValues>
class Producer {
 public:
  __device__ Producer(const AttentionArgs& args, SharedMemory<Shape>& shared)
      : args_(args), shared_(shared), lane_(static_cast<int>(threadIdx.x) % 32) {
    step_slices_ = Shape::kKeys / args.slice_rows;
    slices_per_block_ = args.k_block / args.slice_rows;
    slice_ = lane_ / Shape::kChunks;
    chunk_ = lane_ % Shape::kChunks;
  }

  __device__ void run() {
    for (int tile = next_tile(); tile >= 0; tile = next_tile()) {
      load_tile(tile / args_.query_tiles, tile % args_.query_tiles);
      q_.advance();
    }
  }

 private:
  // -1: none is left.
  __device__ int next_tile() {
    const TileInfo& info = shared_.tiles[q_.index];
    if (kValues) {
      barrier_wait(&shared_.q_full[q_.index], q_.parity);
      const int tile = info.steps < 0 ? -1 : info.head * args_.query_tiles + info.first_query / Shape::kRows;
      barrier_arrive(&shared_.q_empty[q_.index]);
      return tile;
    }
    int index = lane_ == 0 ? atomicAdd(&hopper::next_tile, 1) : 0;
    index = __shfl_sync(0xffffffffu, index, 0);
    barrier_wait(&shared_.q_empty[q_.index], q_.parity ^ 1);
    if (index < args_.tiles) return args_.order != nullptr ? args_.order[index] : tile_of_full(index);
    if (lane_ == 0) {
      shared_.tiles[q_.index].steps = -1;
      // Every block of threads asks once too often; the last one leaves the counter as it was.
      if (index == args_.tiles + static_cast<int>(gridDim.x) - 1) hopper::next_tile = 0;
    }
    barrier_arrive(&shared_.q_full[q_.index]);
    return -1;
  }
  // As order_tiles() has it: one kv head after the other, of one the last queries first.
  __device__ int tile_of_full(int index) const {
    const int count = args_.group * args_.query_tiles, of_kv_head = index % count;
    const int head = index / count * args_.group + of_kv_head % args_.group;
    return head * args_.query_tiles + args_.query_tiles - 1 - of_kv_head / args_.group;
  }

  // All lanes have written what they write down about a step or tile.
  __device__ void arrive_full(std::uint64_t* full, std::uint32_t bytes) {
    if (lane_ == 0) {
      barrier_arrive_expect(full, bytes);
    } else {
      barrier_arrive(full);
    }
    __syncwarp();
  }

  __device__ int row_of(int query) const {
    return args_.query_rows != nullptr ? args_.query_rows[query] : args_.first_row + query;
  }

  __device__ PlanRow plan_row(int head, int q_tile) const {
    if (args_.listed == nullptr) {
      const int blocks = row_of(min((q_tile + 1) * Shape::kRows, args_.queries) - 1) / args_.k_block + 1;
      return {nullptr, (blocks + 31) / 32, blocks};
    }
    return listed_row(args_, head, q_tile);
  }

  __device__ void load_tile(int head, int q_tile) {
    TilePlan plan;
    plan.head = head;
    const int first_query = q_tile * Shape::kRows;
    plan.first_row = row_of(first_query);
    const PlanRow row = plan_row(head, q_tile);
    ListedBlocks blocks(row, lane_);
    plan.slices = blocks.total() * slices_per_block_;
    plan.list_steps = (plan.slices + step_slices_ - 1) / step_slices_;
    const int block_query = q_tile / args_.tiles_per_block * args_.tiles_per_block * Shape::kRows;
    plan.mean_blocks = min(args_.means, row_of(block_query) / args_.k_block);
    plan.mean_steps = (plan.mean_blocks + Shape::kKeys - 1) / Shape::kKeys;
    plan.steps = plan.mean_steps + plan.list_steps;
    if (!kValues) load_queries(plan, plan.mean_steps + masked_steps(plan, row), first_query);
    for (int step = 0; step < plan.steps; ++step) {
      const bool listed = step >= plan.mean_steps;
      std::uint64_t* empty = kValues ? &shared_.v_empty[ring_.index] : &shared_.k_empty[ring_.index];
      barrier_wait(empty, ring_.parity ^ 1);
      const int own_row =
          listed ? next_slices(plan, step - plan.mean_steps, blocks) : next_means(plan, step, row);
      load(listed, own_row, head / args_.group);
      ring_.advance();
    }
  }

  // Steps over listed keys that are not full or may reach behind the first query: as many as hold the slices
  // there.
  __device__ int masked_steps(const TilePlan& plan, const PlanRow& row) const {
    const int first_block = (plan.first_row + 1) / args_.k_block;  // all before it lie before the first query
    int behind = 0;
    for (int word = first_block / 32 + lane_; word < row.count; word += 32) {
      const std::uint32_t bits = row[word];
      behind += __popc(word == first_block / 32 ? bits >> (first_block % 32) : bits);
    }
    behind =
        static_cast<int>(__reduce_add_sync(0xffffffffu, static_cast<unsigned>(behind))) * slices_per_block_;
    const int in_first = plan.slices - (plan.list_steps - 1) * step_slices_;  // the step that may not be full
    if (plan.list_steps == 0) return 0;
    return behind <= in_first ? 1 : 1 + (behind - in_first + step_slices_ - 1) / step_slices_;
  }

  __device__ void load_queries(const TilePlan& plan, int special, int first_query) {
    if (lane_ == 0) {
      shared_.tiles[q_.index] = {plan.steps, special, plan.head, first_query};
    }
    arrive_full(&shared_.q_full[q_.index], Shape::kWarpgroups * Shape::kQueryBytes);
    if (lane_ < Shape::kWarpgroups * Shape::kChunks) {
      const int part = lane_ / Shape::kChunks;
      load_box(shared_.q[q_.index][part] + chunk_ * 64 * 128, &args_.q, &shared_.q_full[q_.index],
               chunk_ * 64, first_query + part * 64, plan.head);
    }
  }

  // The first cache row of this lane's slice. A step that is not full repeats a slice, which is then masked.
  __device__ int next_slices(const TilePlan& plan, int step, ListedBlocks& blocks) {
    const int valid = step > 0 ? step_slices_ : plan.slices - (plan.list_steps - 1) * step_slices_;
    int own = 0, slice = 0;
    for (int i = 0; i < valid; ++i) {
      if (part_ == 0) {
        block_ = blocks.next();
        part_ = slices_per_block_;
      }
      slice = block_ * slices_per_block_ + --part_;
      if (i <= slice_) own = slice;
    }
    if (!kValues) {
      StepInfo& info = shared_.steps[ring_.index];
      if (lane_ == 0) info.kind = kMasked;
      if (chunk_ == 0 && slice_ < step_slices_) {
        info.rows[slice_] = slice_ < valid ? own * args_.slice_rows : 1 << 30;
      }
    }
    return own * args_.slice_rows;
  }

  __device__ int next_means(const TilePlan& plan, int step, const PlanRow& row) {
    const int begin = step * Shape::kKeys, word = begin / 32 + lane_;
    if (kValues) return begin;
    StepInfo& info = shared_.steps[ring_.index];
    if (lane_ == 0) {
      info.kind = kMeans;
      info.begin = begin;
      info.end = plan.mean_blocks;
    }
    if (lane_ < Shape::kKeys / 32) info.listed[lane_] = word < row.count ? row[word] : 0;
    return begin;
  }

  __device__ void load(bool listed, int row, int kv_head) {
    std::uint64_t* full = kValues ? &shared_.v_full[ring_.index] : &shared_.k_full[ring_.index];
    std::uint8_t* to = kValues ? shared_.v[ring_.index] : shared_.k[ring_.index];
    arrive_full(full, Shape::kKeyBytes);
    std::uint8_t* chunk = to + chunk_ * Shape::kKeys * 128;
    if (listed) {
      if (slice_ < step_slices_) {
        load_box(chunk + slice_ * args_.slice_rows * 128, kValues ? &args_.v : &args_.k, full, chunk_ * 64,
                 row, kv_head);
      }
    } else if (slice_ == 0) {
      load_box(chunk, kValues ? &args_.mean_v : &args_.mean_k, full, chunk_ * 64, row, kv_head);
    }
  }

  const AttentionArgs& args_;
  SharedMemory<Shape>& shared_;
  int lane_, step_slices_, slices_per_block_, slice_, chunk_;
  int block_ = 0, part_ = 0;  // of the block that is being taken apart: slices not yet taken
  Ring<Shape::kQueryBuffers> q_;
  Ring<Shape::kStages> ring_;
};

__device__ __forceinline__ float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(pair);
}

// Warpgroup `wg` of the consumers; every thread holds parts of two query rows, 8 apart (hopper_wgmma.cuh).
template <class Shape>
class Consumer {
 public:
  static constexpr int kKeys = Shape::kKeys, kDim = Shape::kDim;

  __device__ Consumer(const AttentionArgs& args, SharedMemory<Shape>& shared)
      : args_(args),
        shared_(shared),
        wg_(static_cast<int>(threadIdx.x) / 128 - 1),
        warp_(static_cast<int>(threadIdx.x) % 128 / 32),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ __forceinline__ void run() {
    float o[kDim / 2], s[kKeys / 2];
    std::uint32_t p[kKeys / 16][4];
    Softmax state;
    if (Shape::kWarpgroups == 2 && wg_ == 1) pass_turn();
    for (TileInfo tile = wait_tile(); tile.steps >= 0; tile = wait_tile()) {
      start(tile, state, s, p, o);
      int step = 1;
      for (; step < tile.special; ++step) take_step<true>(state, s, p, o);
      for (; step < tile.steps; ++step) take_step<false>(state, s, p, o);
      finish(tile, state, p, o);
      q_.advance();
    }
  }

 private:
  struct Softmax {
    int limits[2];  // the last cache rows that the thread's queries see
    float largest[2], sum[2];
  };
  using Scores = float[kKeys / 2];
  using Outputs = float[kDim / 2];
  using Weights = std::uint32_t[kKeys / 16][4];

  __device__ __forceinline__ TileInfo wait_tile() {
    barrier_wait(&shared_.q_full[q_.index], q_.parity);
    return shared_.tiles[q_.index];
  }

  // The warpgroups take turns in issuing products, so that one computes a softmax while the other's products
  // run.
  __device__ __forceinline__ void wait_turn() {
    if (Shape::kWarpgroups == 2) named_sync(1 + wg_, 256);
  }
  __device__ __forceinline__ void pass_turn() {
    if (Shape::kWarpgroups == 2) named_arrive(2 - wg_, 256);
  }
  __device__ __forceinline__ void release_keys() {
    barrier_arrive(&shared_.k_empty[k_.index]);
    k_.advance();
  }
  __device__ __forceinline__ void release_values() {
    barrier_arrive(&shared_.v_empty[v_.index]);
    v_.advance();
  }

  // A tile's first step, alone.
  __device__ __forceinline__ void start(const TileInfo& tile, Softmax& state, Scores& s, Weights& p,
                                        Outputs& o) {
    const int first = tile.first_query + wg_ * 64 + warp_ * 16 + lane_ / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int query = min(first + 8 * r, args_.queries - 1);
      state.limits[r] = args_.query_rows != nullptr ? args_.query_rows[query] : args_.first_row + query;
      state.largest[r] = -INFINITY;
      state.sum[r] = 0;
    }
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) o[i] = 0;
    if (tile.steps == 0) return;
    barrier_wait(&shared_.k_full[k_.index], k_.parity);
    wgmma_fence();
    multiply_keys(s);
    wgmma_commit();
    wgmma_wait<0>();
    mask(s, state);
    release_keys();
    float rescale[2];
    softmax(s, state, rescale);
    pack_all(s, p);
  }

  // The scores of one step and the products with the values of the step before, issued together.
  template <bool kSpecial>
  __device__ __forceinline__ void take_step(Softmax& state, Scores& s, Weights& p, Outputs& o) {
    barrier_wait(&shared_.k_full[k_.index], k_.parity);
    wait_turn();
    wgmma_fence();
    multiply_keys(s);
    wgmma_commit();
    barrier_wait(&shared_.v_full[v_.index], v_.parity);
    wgmma_fence();
    multiply_values(o, p);
    wgmma_commit();
    pass_turn();
    wgmma_wait<0>();
    if (kSpecial) mask(s, state);
    release_keys();
    release_values();
    float rescale[2];
    softmax(s, state, rescale);
    pack_all(s, p);
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) o[i] *= rescale[i / 2 % 2];
  }

  __device__ __forceinline__ void finish(const TileInfo& tile, Softmax& state, const Weights& p, Outputs& o) {
    if (tile.steps > 0) {
      barrier_wait(&shared_.v_full[v_.index], v_.parity);
      wgmma_fence();
      multiply_values(o, p);
      wgmma_commit();
      wgmma_wait<0>();
      release_values();
    }
    store(tile, o, state.sum);
  }

  __device__ __forceinline__ void multiply_keys(float (&s)[kKeys / 2]) {
    const std::uint64_t q = tile_descriptor(shared_address(shared_.q[q_.index][wg_]), 16);
    const std::uint64_t k = tile_descriptor(shared_address(shared_.k[k_.index]), 16);
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      const int inside = i % 4 * 32 >> 4;
      Wgmma<kKeys>::ss(s, q + (i / 4 * 64 * 128 >> 4) + inside, k + (i / 4 * kKeys * 128 >> 4) + inside,
                       i > 0);
    }
  }

  __device__ __forceinline__ void multiply_values(float (&o)[kDim / 2],
                                                  const std::uint32_t (&p)[kKeys / 16][4]) {
    const std::uint64_t v = tile_descriptor(shared_address(shared_.v[v_.index]), kKeys * 128);
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) Wgmma<kDim>::rs(o, p[i], v + (i * 16 * 128 >> 4), 1);
  }

  __device__ __forceinline__ void mask(Scores& s, const Softmax& state) {
    const StepInfo& info = shared_.steps[k_.index];
    if (info.kind == kMasked) {
      mask_rows(s, info, state.limits);
    } else {
      mask_means(s, info);
    }
  }
  __device__ __forceinline__ void mask_rows(float (&s)[kKeys / 2], const StepInfo& info,
                                            const int (&limits)[2]) {
    const int shift = 31 - __clz(args_.slice_rows);
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      const int key = info.rows[8 * j >> shift] + (8 * j & (args_.slice_rows - 1)) + lane_ % 4 * 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (key + i % 2 > limits[i / 2]) s[4 * j + i] = -INFINITY;
      }
    }
  }
  __device__ __forceinline__ void mask_means(float (&s)[kKeys / 2], const StepInfo& info) {
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 8 * j + lane_ % 4 * 2 + e;
        const bool out = (info.listed[j / 4] >> (column % 32) & 1) != 0 || info.begin + column >= info.end;
        s[4 * j + e] = out ? -INFINITY : s[4 * j + e] + args_.mean_bias;
        s[4 * j + 2 + e] = out ? -INFINITY : s[4 * j + 2 + e] + args_.mean_bias;
      }
    }
  }

  // s becomes exp(scale (s - the largest so far)); what was added up before counts `rescale` times.
  __device__ __forceinline__ void softmax(Scores& s, Softmax& state, float (&rescale)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float highest = state.largest[r];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
        highest = fmaxf(highest, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
      const float base = (highest == -INFINITY ? 0.0f : highest) * args_.scale_log2;
      rescale[r] = power_of_2(fmaf(state.largest[r], args_.scale_log2, -base));
      state.largest[r] = highest;
      float added = 0;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[4 * j + 2 * r + e];
          x = power_of_2(fmaf(x, args_.scale_log2, -base));
          added += x;
        }
      }
      state.sum[r] = fmaf(state.sum[r], rescale[r], added);
    }
  }

  __device__ __forceinline__ void pack_all(const float (&s)[kKeys / 2], std::uint32_t (&p)[kKeys / 16][4]) {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) p[i / 4][i % 4] = pack(s[2 * i], s[2 * i + 1]);
  }

  // Through the queries' own shared memory, which is not needed any more.
  __device__ __forceinline__ void store(const TileInfo& tile, const Outputs& o, float (&sum)[2]) {
    float share[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
      share[r] = sum[r] > 0 ? 1 / sum[r] : 0;
    }
    std::uint8_t* tile_memory = shared_.q[q_.index][wg_];
    named_sync(3 + wg_, 128);
    // Read anew, so that no addresses made of it are kept in registers through the tiles.
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    const int row = thread % 128 / 32 * 16 + thread % 16, half = thread % 32 / 16;
#pragma unroll
    for (int j = 0; j < kDim / 8; j += 2) {
      const std::uint32_t address = shared_address(tile_memory) + swizzled_piece(row, j + half);
      store_matrices(address, pack(o[4 * j] * share[0], o[4 * j + 1] * share[0]),
                     pack(o[4 * j + 2] * share[1], o[4 * j + 3] * share[1]),
                     pack(o[4 * j + 4] * share[0], o[4 * j + 5] * share[0]),
                     pack(o[4 * j + 6] * share[1], o[4 * j + 7] * share[1]));
    }
    async_proxy_fence();
    named_sync(3 + wg_, 128);
    if (threadIdx.x % 128 == 0) {
      for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
        store_box(&args_.out, tile_memory + chunk * 64 * 128, chunk * 64, tile.first_query + wg_ * 64,
                  tile.head);
      }
      wait_stores_read();
    }
    barrier_arrive(&shared_.q_empty[q_.index]);
  }

  const AttentionArgs& args_;
  SharedMemory<Shape>& shared_;
  int wg_, warp_, lane_;
  Ring<Shape::kQueryBuffers> q_;
  Ring<Shape::kStages> k_, v_;
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    attend_kernel(const __grid_constant__ AttentionArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ std::uint8_t memory[];
  auto& shared =
      *reinterpret_cast<SharedMemory<Shape>*>(memory + (1024 - shared_address(memory) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kQueryBuffers; ++i) {
      barrier_init(&shared.q_full[i], 32);
      barrier_init(&shared.q_empty[i], 128 * Shape::kWarpgroups + 32);  // and the warp that brings values
    }
    for (int i = 0; i < Shape::kStages; ++i) {
      barrier_init(&shared.k_full[i], 32);
      barrier_init(&shared.v_full[i], 32);
      barrier_init(&shared.k_empty[i], 128 * Shape::kWarpgroups);
      barrier_init(&shared.v_empty[i], 128 * Shape::kWarpgroups);
    }
    barrier_init_fence();
  } else if (threadIdx.x == 32) {
    for (const CUtensorMap* map : {&args.q, &args.k, &args.v, &args.out}) prefetch_map(map);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    if constexpr (Shape::kMovesRegisters) fewer_registers<Shape::kProducerRegisters>();
    if (threadIdx.x < 32) {
      Producer<Shape, false>(args, shared).run();
    } else if (threadIdx.x < 64) {
      Producer<Shape, true>(args, shared).run();
    }
  } else {
    if constexpr (Shape::kMovesRegisters) more_registers<Shape::kConsumerRegisters>();
    Consumer<Shape>(args, shared).run();
  }
#endif
}

}  // namespace winnow::cuda::hopper
