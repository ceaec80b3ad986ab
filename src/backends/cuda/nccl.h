// NCCL between ranks. The library is opened when it is first wanted, so that a program that was compiled
// with it runs where it is not.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "ranks/communicator.h"

namespace winnow::cuda {

class Nccl {
 public:
  virtual ~Nccl() = default;
  // values = the sum over all ranks, float32 or bf16.
  virtual void sum(void* values, std::int64_t count, bool bf16, cudaStream_t stream) = 0;
  virtual void transfer(void* data, std::int64_t bytes, int from, int to, cudaStream_t stream) = 0;
  // A rank is gone: what waits for it ends, and whatever comes later does nothing. Of any thread; waits until
  // no graph holds operations any more.
  virtual void abandon() = 0;
};

// On every rank, each with its GPU current. Error(kUnsupported) where winnow was compiled without NCCL, where
// libnccl.so.2 is not found on a rank, or NCCL fails.
std::unique_ptr<Nccl> join_nccl(Communicator& ranks);

}  // namespace winnow::cuda
