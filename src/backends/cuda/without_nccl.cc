// join_nccl() of a build without NCCL's header.
#include "backends/cuda/nccl.h"
#include "core/error.h"

namespace winnow::cuda {

std::unique_ptr<Nccl> join_nccl(Communicator&) {
  fail(
      ErrorCode::kUnsupported,
      "these GPUs need NCCL (they cannot read each other's memory, or WINNOW_GPU_EXCHANGE=nccl asks for it), "
      "and this winnow was compiled without it: build it where nccl.h is found, or use one GPU");
}

}  // namespace winnow::cuda
