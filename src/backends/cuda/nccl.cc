#include "backends/cuda/nccl.h"

#include <dlfcn.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <mutex>

#include "backends/cuda/library_function.h"
#include "core/error.h"

namespace winnow::cuda {
namespace {

// The functions of libnccl.so.2 that are used.
struct Library {
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRank) comm_init_rank = nullptr;
  decltype(&ncclCommDestroy) comm_destroy = nullptr;
  decltype(&ncclCommAbort) comm_abort = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) recv = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
};

// Whether all of them are there.
bool open_library(Library& nccl) {
  void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  return library != nullptr && find_function(library, "ncclGetUniqueId", nccl.get_unique_id) &&
         find_function(library, "ncclCommInitRank", nccl.comm_init_rank) &&
         find_function(library, "ncclCommDestroy", nccl.comm_destroy) &&
         find_function(library, "ncclCommAbort", nccl.comm_abort) &&
         find_function(library, "ncclAllReduce", nccl.all_reduce) &&
         find_function(library, "ncclSend", nccl.send) && find_function(library, "ncclRecv", nccl.recv) &&
         find_function(library, "ncclGetErrorString", nccl.error_string);
}

class OpenNccl final : public Nccl {
 public:
  OpenNccl(const Library& nccl, Communicator& ranks) : nccl_(nccl), rank_(ranks.rank()) {
    ncclUniqueId id{};
    if (rank_ == 0) check(nccl_.get_unique_id(&id), "ncclGetUniqueId");
    ranks.share(id);
    check(nccl_.comm_init_rank(&comm_, ranks.size(), id, rank_), "ncclCommInitRank");
  }
  ~OpenNccl() override {
    if (!abandoned_) nccl_.comm_destroy(comm_);
  }
  OpenNccl(const OpenNccl&) = delete;
  OpenNccl& operator=(const OpenNccl&) = delete;

  void sum(void* values, std::int64_t count, bool bf16, cudaStream_t stream) override {
    const std::lock_guard lock(in_use_);
    if (abandoned_) return;
    check(nccl_.all_reduce(values, values, static_cast<std::size_t>(count), bf16 ? ncclBfloat16 : ncclFloat32,
                           ncclSum, comm_, stream),
          "ncclAllReduce");
  }

  void transfer(void* data, std::int64_t bytes, int from, int to, cudaStream_t stream) override {
    const std::lock_guard lock(in_use_);
    if (abandoned_) return;
    const auto size = static_cast<std::size_t>(bytes);
    if (rank_ == from) check(nccl_.send(data, size, ncclInt8, to, comm_, stream), "ncclSend");
    if (rank_ == to) check(nccl_.recv(data, size, ncclInt8, from, comm_, stream), "ncclRecv");
  }

  // The communicator is freed: no call may be in it then, but one that waits inside for the rank that is gone
  // (NCCL connects ranks when they first exchange) and ends by nothing else. Not under the lock, for a step
  // that is being recorded must end before its graph lets go of the communicator.
  void abandon() override {
    {
      const std::unique_lock lock(in_use_, std::chrono::seconds(2));
      if (abandoned_.exchange(true)) return;
    }
    nccl_.comm_abort(comm_);
  }

 private:
  void check(ncclResult_t status, const char* what) const {
    if (status == ncclSuccess) return;
    fail(ErrorCode::kUnsupported, "NCCL: {}: {}", what, nccl_.error_string(status));
  }

  Library nccl_;
  int rank_;
  ncclComm_t comm_ = nullptr;
  std::timed_mutex in_use_;
  std::atomic<bool> abandoned_ = false;  // set without the lock where a call does not come back
};

}  // namespace

std::unique_ptr<Nccl> join_nccl(Communicator& ranks) {
  Library nccl;
  const int found = open_library(nccl) ? 1 : 0;
  for (const int there : ranks.gather(found)) {
    if (there == 1) continue;
    fail(ErrorCode::kUnsupported,
         "these GPUs need NCCL (they cannot read each other's memory, or WINNOW_GPU_EXCHANGE=nccl asks for "
         "it), and libnccl.so.2 was not found on every rank: install it, or add its folder to "
         "LD_LIBRARY_PATH");
  }
  return std::make_unique<OpenNccl>(nccl, ranks);
}

}  // namespace winnow::cuda
