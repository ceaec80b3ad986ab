// join_nccl() of a build without NCCL's header.
#include "backends/cuda/nccl.h"
#include "core/error.h"

namespace winnow::cuda {

std::unique_ptr<Nccl> join_nccl(Communicator&) {
  fail(
      ErrorCode::kUnsupported,
      "these GPUs cannot read each other's memory, and this winnow was compiled without NCCL: build it where "
      "nccl.h is found, or use --split layers or one GPU");
}

}  // namespace winnow::cuda
