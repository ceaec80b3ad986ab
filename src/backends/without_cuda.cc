// make_cuda_backend() of a build without CUDA.
#include "backends/backend.h"
#include "core/error.h"

namespace winnow {

std::unique_ptr<Backend> make_cuda_backend(Precision, int) {
  fail(ErrorCode::kUnsupported,
       "--device cuda: this build has no CUDA support (nvcc was not found); use --device cpu");
}

}  // namespace winnow
