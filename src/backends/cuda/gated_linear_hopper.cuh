// The tensor-core kernel of launch_gated_kernel(): y = act(x G^T) * (x U^T), where G and U are the upper and
// the lower half of one matrix. Neither product goes to memory.
//
// A block of threads stays on its SM and takes one tile of 128 rows and 128 columns of y after the other. A
// tile's step is 64 of the features: 128 rows of x, 128 of G and 128 of U, brought by one producer thread
// with the copy engine, kStages steps ahead, also into the next tile. Two consumer warpgroups multiply, 64
// rows each, x with G and U below each other as one matrix of 256 columns, so that a thread holds both
// factors of each of its results. Two blocks are a cluster: their tiles lie below each other, and each brings
// half of the weight's rows (G or U) for both.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "backends/cuda/activate.cuh"
#include "backends/cuda/hopper_memory.cuh"
#include "backends/cuda/hopper_wgmma.cuh"

namespace winnow::cuda::hopper {

struct GatedArgs {
  CUtensorMap x, weight, y;
  int steps;                 // of a tile: features / 64, rounded up
  int row_tiles, col_tiles;  // of clusters
  int group;                 // row tiles whose columns are taken together, so that x stays in the L2 cache
  int columns;               // of y: U begins at this row of the weight
};

struct GatedShape {
  static constexpr int kRows = 128, kColumns = 128, kFeatures = 64, kStages = 4, kThreads = 384;
  static constexpr int kBlocks = 2;  // of a cluster
  static constexpr int kRowBytes = kFeatures * 2, kXBytes = kRows * kRowBytes,
                       kHalfBytes = kColumns * kRowBytes, kOutBytes = 64 * kColumns * 2;
  static constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
};

struct GatedMemory {
  alignas(1024) std::uint8_t x[GatedShape::kStages][GatedShape::kXBytes];
  alignas(1024) std::uint8_t weight[GatedShape::kStages][2 * GatedShape::kHalfBytes];
  alignas(1024) std::uint8_t y[2][GatedShape::kOutBytes];
  std::uint64_t full[GatedShape::kStages], empty[GatedShape::kStages];
};

// The first row and column of this block's part of a cluster's tile.
struct GatedTile {
  int row, column;
  __device__ GatedTile(const GatedArgs& args, int tile, int rank) {
    const int in_group = args.group * args.col_tiles, first = tile / in_group * args.group;
    const int height = min(args.group, args.row_tiles - first), inside = tile % in_group;
    row = (GatedShape::kBlocks * (first + inside % height) + rank) * GatedShape::kRows;
    column = inside / height * GatedShape::kColumns;
  }
};

__device__ inline void produce_gated(const GatedArgs& args, GatedMemory& shared, int rank, int first,
                                     int step) {
  using Shape = GatedShape;
  constexpr std::uint16_t kBoth = 3;
  Ring<Shape::kStages> at;
  for (int tile = first; tile < args.row_tiles * args.col_tiles; tile += step) {
    const GatedTile place(args, tile, rank);
    for (int i = 0; i < args.steps; ++i, at.advance()) {
      std::uint64_t* full = &shared.full[at.index];
      barrier_wait(&shared.empty[at.index], at.parity ^ 1);
      barrier_arrive_expect(full, Shape::kXBytes + 2 * Shape::kHalfBytes);
      load_box(shared.x[at.index], &args.x, full, i * Shape::kFeatures, place.row, 0);
      load_box_into(kBoth, shared.weight[at.index] + rank * Shape::kHalfBytes, &args.weight, full,
                    i * Shape::kFeatures, place.column + rank * args.columns, 0);
    }
  }
}

template <Activation kKind>
class GatedConsumer {
 public:
  __device__ GatedConsumer(const GatedArgs& args, GatedMemory& shared)
      : args_(args),
        shared_(shared),
        warpgroup_(static_cast<int>(threadIdx.x) / 128 - 1),
        thread_(static_cast<int>(threadIdx.x) % 128) {}

  __device__ __forceinline__ void run(int rank, int first, int step) {
    float d[GatedShape::kColumns];
    for (int tile = first; tile < args_.row_tiles * args_.col_tiles; tile += step) {
      multiply(d);
      const GatedTile place(args_, tile, rank);
      store(d, place.row + warpgroup_ * 64, place.column);
    }
    if (thread_ == 0) wait_stores_read();
  }

 private:
  // Gates in the first half of d, what they multiply in the second.
  __device__ __forceinline__ void multiply(float (&d)[GatedShape::kColumns]) {
    int before = 0;
    for (int i = 0; i < args_.steps; ++i) {
      barrier_wait(&shared_.full[at_.index], at_.parity);
      const std::uint64_t x =
          tile_descriptor(shared_address(shared_.x[at_.index] + warpgroup_ * 64 * GatedShape::kRowBytes), 16);
      const std::uint64_t weight = tile_descriptor(shared_address(shared_.weight[at_.index]), 16);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < GatedShape::kFeatures / 16; ++k) {
        Wgmma<256>::ss(d, x + (k * 32 >> 4), weight + (k * 32 >> 4), i + k > 0);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (i > 0) release(before);
      before = at_.index;
      at_.advance();
    }
    wgmma_wait<0>();
    release(before);
  }

  // A stage is written again when no warp of the cluster reads it any more.
  __device__ __forceinline__ void release(int stage) {
    const int lane = thread_ % 32;
    if (lane < GatedShape::kBlocks) {
      barrier_arrive_at(&shared_.empty[stage], static_cast<std::uint32_t>(lane));
    }
  }

  __device__ __forceinline__ static std::uint32_t gated(const float (&d)[GatedShape::kColumns], int i) {
    constexpr int kUp = GatedShape::kColumns / 2;
    const __nv_bfloat162 pair =
        __floats2bfloat162_rn(activate<__nv_bfloat16, kKind>(d[i]) * d[i + kUp],
                              activate<__nv_bfloat16, kKind>(d[i + 1]) * d[i + 1 + kUp]);
    return reinterpret_cast<const std::uint32_t&>(pair);
  }

  __device__ __forceinline__ void store(const float (&d)[GatedShape::kColumns], int row, int column) {
    std::uint8_t* out = shared_.y[warpgroup_];
    if (thread_ == 0) wait_stores_read();
    named_sync(1 + warpgroup_, 128);
    const int own_row = thread_ / 32 * 16 + thread_ % 16, half = thread_ % 32 / 16;
#pragma unroll
    for (int j = 0; j < GatedShape::kColumns / 8; j += 2) {
      const std::uint32_t address = shared_address(out) + swizzled_piece(own_row, j + half);
      store_matrices(address, gated(d, 4 * j), gated(d, 4 * j + 2), gated(d, 4 * j + 4), gated(d, 4 * j + 6));
    }
    async_proxy_fence();
    named_sync(1 + warpgroup_, 128);
    if (thread_ == 0) {
      store_box(&args_.y, out, column, row, 0);
      store_box(&args_.y, out + 64 * 128, column + 64, row, 0);
    }
  }

  const GatedArgs& args_;
  GatedMemory& shared_;
  int warpgroup_, thread_;
  Ring<GatedShape::kStages> at_;
};

template <Activation kKind>
__global__ void __launch_bounds__(GatedShape::kThreads, 1)
    gated_kernel(const __grid_constant__ GatedArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ std::uint8_t memory[];
  auto& shared = *reinterpret_cast<GatedMemory*>(memory + (1024 - shared_address(memory) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < GatedShape::kStages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], 8 * GatedShape::kBlocks);  // the consumers' warps
    }
    barrier_init_fence();
  } else if (threadIdx.x == 32) {
    for (const CUtensorMap* map : {&args.x, &args.weight, &args.y}) prefetch_map(map);
  }
  __syncthreads();
  cluster_sync();
  const auto rank = static_cast<int>(cluster_rank());
  const int first = static_cast<int>(blockIdx.x) / GatedShape::kBlocks,
            step = static_cast<int>(gridDim.x) / GatedShape::kBlocks;
  if (threadIdx.x < 128) {
    fewer_registers<GatedShape::kProducerRegisters>();
    if (threadIdx.x == 0) produce_gated(args, shared, rank, first, step);
    __syncwarp();
  } else {
    more_registers<GatedShape::kConsumerRegisters>();
    GatedConsumer<kKind>(args, shared).run(rank, first, step);
  }
  cluster_sync();  // what arrives at another block's barriers needs them to be there
#endif
}

}  // namespace winnow::cuda::hopper
