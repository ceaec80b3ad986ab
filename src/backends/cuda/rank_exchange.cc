#include "backends/cuda/rank_exchange.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <string>

#include "core/check.h"
#include "core/error.h"

namespace winnow::cuda {
namespace {

// Whether an environment variable has the second of its two values; not set, it has the first.
bool second_set(const char* variable, const std::string& first, const std::string& second) {
  const char* value = std::getenv(variable);
  const std::string wanted = value == nullptr ? first : value;
  if (wanted == first || wanted == second) return wanted == second;
  fail(ErrorCode::kBadArgument, "{}={}: must be {} or {}", variable, wanted, first, second);
}

// As rank 0 has it set: the ranks must agree, and mpirun need not give every host the same environment.
bool second_wanted(Communicator& ranks, const char* variable, const std::string& first,
                   const std::string& second) {
  bool wanted = ranks.rank() == 0 && second_set(variable, first, second);
  ranks.share(wanted);
  return wanted;
}

}  // namespace

RankExchange::RankExchange(Device& device, StepGraphs& steps, Communicator& ranks, std::int64_t most,
                           bool bf16)
    : device_(device),
      steps_(steps),
      ranks_(ranks),
      bf16_(bf16 && !second_wanted(ranks, "WINNOW_GPU_SUMS", "bf16", "f32")) {
  constexpr std::int64_t kAlign = 256;
  summand_bytes_ = (most * (bf16_ ? 2 : 4) + kAlign - 1) / kAlign * kAlign;
  ranks.spin_for(std::chrono::milliseconds(2));  // some host's work between two tokens
  check_cuda(cudaSetDevice(device.index()), "cudaSetDevice");
  void* memory = nullptr;  // not of the pool: other processes can map only this kind
  check_cuda(cudaMalloc(&memory, static_cast<std::size_t>(2 * summand_bytes_ + kMeetingBytes)),
             "what ranks exchange through");
  memory_ = static_cast<std::byte*>(memory);
  check_cuda(cudaMallocHost(&memory, sizeof *lost_), "cudaMallocHost");
  lost_ = new (memory) std::uint32_t(0);
  own_[0] = memory_;
  own_[1] = memory_ + summand_bytes_;
  device.clear(memory_ + 2 * summand_bytes_, kMeetingBytes);
  device.finish();
  const bool nccl = second_wanted(ranks, "WINNOW_GPU_EXCHANGE", "peers", "nccl");
  if (nccl || !connect_peers()) nccl_ = join_nccl(ranks);
  ranks.barrier();  // all have mapped what is zeroed
  watcher_ = std::jthread([this](const std::stop_token& ended) { watch(ended); });
}

RankExchange::~RankExchange() {
  cudaSetDevice(device_.index());
  cudaStreamSynchronize(device_.stream());
  for (std::size_t rank = 0; rank < peers_.size(); ++rank) {
    if (static_cast<int>(rank) != ranks_.rank()) cudaIpcCloseMemHandle(peers_[rank]);
  }
  steps_.forget();  // NCCL's communicator outlives no graph that holds its operations
  watcher_.request_stop();
  watcher_.join();
  nccl_.reset();
  try {
    ranks_.barrier();                // memory that others have mapped is not freed
  } catch (const std::exception&) {  // they are gone
  }
  cudaFree(memory_);
  cudaFreeHost(lost_);
}

void RankExchange::watch(const std::stop_token& ended) {
  constexpr std::chrono::milliseconds kLook(100);
  std::mutex mutex;
  std::condition_variable_any end;
  std::unique_lock lock(mutex);
  while (!end.wait_for(lock, ended, kLook, [&] { return ended.stop_requested(); })) {
    if (ranks_.failure().empty()) continue;
    std::atomic_ref(*lost_).store(1);
    if (nccl_) nccl_->abandon();
    return;
  }
}

// Whether all ranks could map the others' memory.
bool RankExchange::connect_peers() {
  const int size = ranks_.size();
  if (ranks_.local_size() != size || size > kMaxPeers) return false;
  cudaIpcMemHandle_t own{};
  bool works = cudaIpcGetMemHandle(&own, memory_) == cudaSuccess;
  const auto handles = ranks_.gather(own);
  const auto all_work = [&] {
    cudaGetLastError();
    const auto each = ranks_.gather(works ? 1 : 0);
    return std::all_of(each.begin(), each.end(), [](int one) { return one == 1; });
  };
  if (!all_work()) return false;
  peers_.resize(static_cast<std::size_t>(size));
  for (int rank = 0; rank < size; ++rank) {
    void* mapped = memory_;
    if (rank != ranks_.rank() && works) {
      works = cudaIpcOpenMemHandle(&mapped, handles[static_cast<std::size_t>(rank)],
                                   cudaIpcMemLazyEnablePeerAccess) == cudaSuccess;
    }
    peers_[static_cast<std::size_t>(rank)] = works ? static_cast<std::byte*>(mapped) : nullptr;
  }
  if (all_work()) return true;
  for (int rank = 0; rank < size; ++rank) {
    std::byte* mapped = peers_[static_cast<std::size_t>(rank)];
    if (rank != ranks_.rank() && mapped != nullptr) cudaIpcCloseMemHandle(mapped);
  }
  peers_.clear();
  return false;
}

// Of a meeting without a sum.
RankSumArgs RankExchange::sum_args() const {
  RankSumArgs args{};
  args.rank = peers_.empty() ? 0 : ranks_.rank();
  args.ranks = peers_.empty() ? 1 : ranks_.size();
  for (int rank = 0; rank < args.ranks; ++rank) {
    std::byte* memory = peers_.empty() ? memory_ : peers_[static_cast<std::size_t>(rank)];
    args.summands[static_cast<std::size_t>(rank)] = memory + turn_ * summand_bytes_;
    args.arrivals[static_cast<std::size_t>(rank)] =
        reinterpret_cast<std::uint32_t*>(memory + 2 * summand_bytes_);
  }
  args.meetings = reinterpret_cast<std::uint32_t*>(memory_ + 2 * summand_bytes_) + kMaxSumBlocks * kMaxPeers;
  args.lost = lost_;
  return args;
}

void RankExchange::add(const MatrixView& y, bool accumulate) {
  const DType dtype = summand_dtype(y.rows);
  RankSumArgs args = sum_args();
  args.y = y.row<float>(0);
  args.count = y.rows * y.cols;
  args.bf16 = dtype == DType::kBF16;
  args.accumulate = accumulate;
  check(args.count % 8 == 0 && dtype_bytes(dtype, args.count) <= summand_bytes_, "a sum over ranks: it fits");
  void* own = summand();
  turn_ ^= 1;
  steps_.submit(key_of(20, own, args.y, args.count, accumulate), [this, args, own, s = device_.stream()] {
    if (nccl_) nccl_->sum(own, args.count, args.bf16, s);
    launch_rank_sum(args, s);
  });
}

// Through the summands' memory, in pieces: written there, met, read from there.
void RankExchange::transfer(void* data, std::int64_t bytes, int from, int to) {
  steps_.flush();
  if (nccl_) return nccl_->transfer(data, bytes, from, to, device_.stream());
  for (std::int64_t at = 0; at < bytes; at += summand_bytes_) {
    const std::int64_t count = std::min(summand_bytes_, bytes - at);
    auto* piece = static_cast<std::byte*>(data) + at;
    if (ranks_.rank() == from) device_.copy(summand(), piece, count);
    launch_rank_sum(sum_args(), device_.stream());
    if (ranks_.rank() == to) {
      device_.copy(piece, peers_[static_cast<std::size_t>(from)] + turn_ * summand_bytes_, count);
    }
    turn_ ^= 1;
  }
}

}  // namespace winnow::cuda
