#include "backends/cuda/device.h"
#include "backends/cuda/numeric.cuh"
#include "backends/cuda/rank_sums.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kValues = 8;                        // a thread's at a time
constexpr long long kPatience = 200'000'000'000;  // cycles, some two minutes: then a rank is gone
constexpr long long kShort = 2'000'000;           // cycles, a millisecond: the host's memory is not looked at

__device__ void announce(std::uint32_t* there, std::uint32_t meeting) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(there), "r"(meeting) : "memory");
}
__device__ std::uint32_t announced(const std::uint32_t* here) {
  std::uint32_t meeting;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(meeting) : "l"(here) : "memory");
  return meeting;
}

// Whether all have come.
__device__ bool meet(const RankSumArgs& args) {
  const std::uint32_t meeting = args.meetings[blockIdx.x] + 1;
  const int peer = static_cast<int>(threadIdx.x);
  bool lost = false;
  if (peer < args.ranks) {
    announce(args.arrivals[peer] + blockIdx.x * kMaxPeers + args.rank, meeting);
    const std::uint32_t* arrival = args.arrivals[args.rank] + blockIdx.x * kMaxPeers + peer;
    const long long start = clock64();
    while (!lost && static_cast<std::int32_t>(announced(arrival) - meeting) < 0) {
      const long long waited = clock64() - start;
      lost = waited > kShort && announced(args.lost) != 0;
      if (waited > kPatience) __trap();
    }
  }
  lost = __syncthreads_or(lost) != 0;
  if (threadIdx.x == 0) args.meetings[blockIdx.x] = meeting;
  return !lost;
}

__device__ void load_values(const bf16* from, float (&x)[kValues]) { load_pack(from, x); }
__device__ void load_values(const float* from, float (&x)[kValues]) {
  float low[4], high[4];
  load_pack(from, low);
  load_pack(from + 4, high);
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = low[i], x[i + 4] = high[i];
}

template <class T, int kRanks>
__global__ void __launch_bounds__(kThreads) rank_sum_kernel(const __grid_constant__ RankSumArgs args) {
  if (!meet(args)) return;
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads * kValues;
  for (std::int64_t at = (blockIdx.x * std::int64_t{kThreads} + threadIdx.x) * kValues; at < args.count;
       at += step) {
    float x[kRanks][kValues];  // all on their way before the first is needed
#pragma unroll
    for (int rank = 0; rank < kRanks; ++rank) {
      if (rank < args.ranks) load_values(static_cast<const T*>(args.summands[rank]) + at, x[rank]);
    }
    float y[kValues] = {};
    if (args.accumulate) load_values(args.y + at, y);
    float sum[kValues] = {};
#pragma unroll
    for (int rank = 0; rank < kRanks; ++rank) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        if (rank < args.ranks) sum[i] += x[rank][i];
      }
    }
#pragma unroll
    for (int i = 0; i < kValues; i += 4) {
      *reinterpret_cast<float4*>(args.y + at + i) =
          make_float4(y[i] + sum[i], y[i + 1] + sum[i + 1], y[i + 2] + sum[i + 2], y[i + 3] + sum[i + 3]);
    }
  }
}

template <class T>
void launch(const RankSumArgs& args, unsigned blocks, cudaStream_t stream) {
  if (args.ranks <= 2) {
    rank_sum_kernel<T, 2><<<blocks, kThreads, 0, stream>>>(args);
  } else if (args.ranks <= 4) {
    rank_sum_kernel<T, 4><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    rank_sum_kernel<T, kMaxPeers><<<blocks, kThreads, 0, stream>>>(args);
  }
}

}  // namespace

void launch_rank_sum(const RankSumArgs& args, cudaStream_t stream) {
  constexpr std::int64_t kPerBlock = kThreads * kValues;
  const std::int64_t wanted = (args.count + kPerBlock - 1) / kPerBlock;
  const auto blocks = static_cast<unsigned>(wanted < 1 ? 1 : wanted > kMaxSumBlocks ? kMaxSumBlocks : wanted);
  if (args.bf16) {
    launch<bf16>(args, blocks, stream);
  } else {
    launch<float>(args, blocks, stream);
  }
  check_launch("a sum over ranks");
}

}  // namespace winnow::cuda
