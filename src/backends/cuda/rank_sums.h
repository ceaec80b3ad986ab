// Sums over the GPUs of several ranks, read directly from each other's memory over NVLink (or PCIe).
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>

namespace winnow::cuda {

constexpr int kMaxPeers = 8;
constexpr int kMaxSumBlocks = 264;

// One meeting of all ranks' launches: every block waits until the same block of the other ranks has begun,
// and so all they wrote before is there; then y = the sum over the ranks of their summands, in the order of
// the ranks: the same bits everywhere. Of two summands in turn, the one before may be written again when the
// launch is done: the others have read it, having come to this meeting.
struct RankSumArgs {
  std::array<const void*, kMaxPeers> summands;     // [count] of each rank, as seen from here
  std::array<std::uint32_t*, kMaxPeers> arrivals;  // [kMaxSumBlocks, kMaxPeers] of each rank
  std::uint32_t* meetings;                         // [kMaxSumBlocks] so far, here
  const std::uint32_t* lost;                       // not 0 once a rank is gone: nobody waits, y is left alone
  int rank, ranks;
  float* y;            // [count]
  std::int64_t count;  // a multiple of 8; 0: they only meet
  bool bf16;           // the summands' type, else float32
  bool accumulate;     // y += the sum
};
void launch_rank_sum(const RankSumArgs& args, cudaStream_t stream);
// Bytes of arrivals and meetings together, zeroed before the first launch.
constexpr std::int64_t kMeetingBytes = kMaxSumBlocks * (kMaxPeers + 1) * 4;

}  // namespace winnow::cuda
