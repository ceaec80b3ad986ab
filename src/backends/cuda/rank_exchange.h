// RankExchange: what the GPUs of several ranks give each other: sums into the residual stream and, between
// layers that are on different ones, hidden states.
//
// Ranks of one host whose GPUs can read each other's memory do so (rank_sums.h); others use NCCL. All ranks
// take the same of the two. When a rank has failed (Communicator::failure), GPUs stop waiting for it and what
// they leave is not defined; the ranks' next exchange through the Communicator throws.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "backends/backend.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/nccl.h"
#include "backends/cuda/rank_sums.h"
#include "backends/cuda/step_graph.h"
#include "core/dtype.h"
#include "ranks/communicator.h"

namespace winnow::cuda {

class RankExchange {
 public:
  // On every rank. `most`: elements of a summand, in bf16 where that is the compute dtype and WINNOW_GPU_SUMS
  // does not say f32, else in float32. Everything must outlive this.
  RankExchange(Device& device, StepGraphs& steps, Communicator& ranks, std::int64_t most, bool bf16);
  ~RankExchange();
  RankExchange(const RankExchange&) = delete;
  RankExchange& operator=(const RankExchange&) = delete;

  // Of sums of that many rows. The few of decoding are float32: that costs nothing where little travels.
  DType summand_dtype(std::int64_t rows) const {
    return bf16_ && rows > kMaxGemvRows ? DType::kBF16 : DType::kF32;
  }
  // Where this rank's part of the next sum goes: ops that write it come before add().
  void* summand() const { return own_[turn_]; }
  // y = the sum over the ranks of their summands, or y += it. y is float32, its rows dense.
  void add(const MatrixView& y, bool accumulate);
  // `data` of rank `from` goes to rank `to`; not within a step.
  void transfer(void* data, std::int64_t bytes, int from, int to);

 private:
  bool connect_peers();
  void watch(const std::stop_token& ended);
  RankSumArgs sum_args() const;

  Device& device_;
  StepGraphs& steps_;
  Communicator& ranks_;
  std::int64_t summand_bytes_;
  bool bf16_;
  // One allocation that other ranks can map: two summands, then arrivals and meetings.
  std::byte* memory_ = nullptr;
  void* own_[2] = {};
  int turn_ = 0;
  std::vector<std::byte*> peers_;  // [ranks] the same of all ranks, as mapped here; empty: NCCL
  std::unique_ptr<Nccl> nccl_;
  std::uint32_t* lost_ = nullptr;  // of the host, read by the GPU (RankSumArgs)
  std::jthread watcher_;           // a GPU waits for others without asking whether they still are
};

}  // namespace winnow::cuda
