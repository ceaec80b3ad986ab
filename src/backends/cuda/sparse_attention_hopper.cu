#include <algorithm>
#include <cmath>

#include "backends/cuda/device.h"
#include "backends/cuda/sparse_attention_hopper.cuh"
#include "backends/cuda/sparse_attention_hopper.h"
#include "backends/cuda/tensor_map.h"

namespace winnow::cuda {
namespace {

using hopper::AttentionArgs;

constexpr int kOrderThreads = 1024, kMostSteps = 4096;

// The tiles of one kv head after the other's, so that their keys stay in the L2 cache; of one, the longest
// first. costs: working memory for each tile's listed key blocks (and 1 for the tile itself).
__global__ void __launch_bounds__(kOrderThreads)
    order_tiles(AttentionArgs args, std::int32_t* costs, std::int32_t* order) {
  __shared__ int starts[kMostSteps];
  __shared__ int sums[kOrderThreads / 32];
  const int count = args.group * args.query_tiles, begin = static_cast<int>(blockIdx.x) * count;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const auto bucket = [](int cost) { return kMostSteps - 1 - min(cost, kMostSteps - 1); };
  for (int i = thread; i < kMostSteps; i += kOrderThreads) starts[i] = 0;
  __syncthreads();
  for (int i = thread / 32; i < count; i += kOrderThreads / 32) {  // a warp for each
    const hopper::ListedBlocks blocks(
        hopper::listed_row(args, (begin + i) / args.query_tiles, i % args.query_tiles), lane);
    const int cost = blocks.total() + 1;
    if (lane > 0) continue;
    costs[begin + i] = cost;
    atomicAdd(&starts[bucket(cost)], 1);
  }
  __syncthreads();
  constexpr int kOwn = kMostSteps / kOrderThreads;  // exclusive prefix sums over the buckets
  int own[kOwn], total = 0;
  for (int i = 0; i < kOwn; ++i) {
    own[i] = total;
    total += starts[thread * kOwn + i];
  }
  int before = total;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, before, step);
    if (lane >= step) before += other;
  }
  if (lane == 31) sums[thread / 32] = before;
  __syncthreads();
  before -= total;
  for (int i = 0; i < thread / 32; ++i) before += sums[i];
  for (int i = 0; i < kOwn; ++i) starts[thread * kOwn + i] = before + own[i];
  __syncthreads();
  // From the last query blocks backwards, roughly: neighbours in the order then read the same keys.
  for (int i = count - 1 - thread; i >= 0; i -= kOrderThreads) {
    order[begin + atomicAdd(&starts[bucket(costs[begin + i])], 1)] = begin + i;
  }
}

int sm_count() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), "device");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  return count;
}

HeadMatrix query_matrix(const BlockAttentionParams& p, const void* data, std::int64_t row_stride) {
  return {.data = data,
          .columns = p.head_dim,
          .rows = p.queries,
          .heads = p.heads,
          .row_stride = row_stride,
          .head_stride = p.head_dim};
}
HeadMatrix cache_matrix(const BlockAttentionParams& p, const void* data) {
  return {.data = data,
          .columns = p.head_dim,
          .rows = p.kv_rows,
          .heads = p.kv_heads,
          .row_stride = p.kv_row_stride,
          .head_stride = p.kv_head_stride};
}

template <class Shape>
AttentionArgs make_args(const BlockAttentionParams& p) {
  AttentionArgs args{};
  args.k_block = static_cast<int>(p.plan.k_block);
  args.slice_rows = std::min(args.k_block, Shape::kKeys);
  args.q = make_tensor_map(query_matrix(p, p.q, p.q_row_stride), 64);
  args.out = make_tensor_map(query_matrix(p, p.out, p.out_row_stride), 64);
  args.k = make_tensor_map(cache_matrix(p, p.k), args.slice_rows);
  args.v = make_tensor_map(cache_matrix(p, p.v), args.slice_rows);
  if (p.plan.mean_k != nullptr && p.plan.means > 0) {
    HeadMatrix means{.data = p.plan.mean_k,
                     .columns = p.head_dim,
                     .rows = p.plan.means,
                     .heads = p.kv_heads,
                     .row_stride = p.head_dim,
                     .head_stride = p.plan.mean_head_stride};
    args.mean_k = make_tensor_map(means, Shape::kKeys);
    means.data = p.plan.mean_v;
    args.mean_v = make_tensor_map(means, Shape::kKeys);
    args.means = static_cast<int>(p.plan.means);
  }
  args.listed = p.plan.listed;
  args.words = p.plan.words;
  args.plan_query_blocks = static_cast<int>(p.plan.query_blocks);
  args.heads = static_cast<int>(p.heads);
  args.group = static_cast<int>(p.heads / p.kv_heads);
  args.plan_group = static_cast<int>(p.heads / p.plan.heads);
  args.query_tiles = static_cast<int>((p.queries + Shape::kRows - 1) / Shape::kRows);
  args.tiles = args.heads * args.query_tiles;
  args.tiles_per_block = static_cast<int>(p.plan.q_block / Shape::kRows);
  args.queries = static_cast<int>(p.queries);
  args.query_rows = p.query_rows;
  args.first_row = static_cast<int>(p.first_row);
  args.mean_bias = std::log(static_cast<float>(p.plan.k_block)) / p.scale;
  args.scale_log2 = p.scale * 1.44269504f;
  return args;
}

template <class Shape>
void launch(const BlockAttentionParams& p, cudaStream_t stream) {
  AttentionArgs args = make_args<Shape>(p);
  if (args.listed != nullptr) {
    auto* costs = static_cast<std::int32_t*>(p.workspace);
    std::int32_t* order = costs + args.tiles;
    order_tiles<<<static_cast<unsigned>(p.kv_heads), kOrderThreads, 0, stream>>>(args, costs, order);
    args.order = order;
  }
  constexpr int kBytes = sizeof(hopper::SharedMemory<Shape>) + 1024;
  check_cuda(
      cudaFuncSetAttribute(hopper::attend_kernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "shared memory for block attention");
  const int blocks = std::min(args.tiles, sm_count() * (2 * kBytes <= 227 * 1024 ? Shape::kBlocksPerSm : 1));
  hopper::attend_kernel<Shape><<<blocks, Shape::kThreads, kBytes, stream>>>(args);
  check_cuda(cudaGetLastError(), "block attention");
}

template <int kWarpgroups>
void launch_dim(const BlockAttentionParams& p, cudaStream_t stream) {
  switch (p.head_dim) {
    case 64: return launch<hopper::Shape<64, kWarpgroups>>(p, stream);
    case 96: return launch<hopper::Shape<96, kWarpgroups>>(p, stream);
    case 128: return launch<hopper::Shape<128, kWarpgroups>>(p, stream);
    default: return launch<hopper::Shape<256, kWarpgroups>>(p, stream);
  }
}

}  // namespace

bool hopper_takes(const BlockAttentionParams& p) {
  const bool dim = p.head_dim == 64 || p.head_dim == 96 || p.head_dim == 128 || p.head_dim == 256;
  const std::int64_t k_block = p.plan.k_block;
  const bool keys = k_block == 16 || k_block == 32 || k_block == 64 || k_block == 128;
  return p.dtype == DType::kBF16 && dim && keys && (p.plan.q_block == 64 || p.plan.q_block % 128 == 0);
}

std::int64_t hopper_workspace(std::int64_t tiles) { return 2 * tiles * 4; }

void attend_blocks_hopper(const BlockAttentionParams& p, cudaStream_t stream) {
  if (p.plan.q_block == 64) {
    launch_dim<1>(p, stream);
  } else {
    launch_dim<2>(p, stream);
  }
}

}  // namespace winnow::cuda
