#include "backends/cuda/cublas_lt.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <string>

#include "backends/cuda/library_function.h"
#include "core/error.h"

namespace winnow::cuda {
namespace {

// Of the version that was compiled against: by the loader's rules, or from the toolkit's folder.
void* open_library() {
  const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  std::string reasons;
  for (const std::string& path : {name, fmt::format("{}/{}", WINNOW_CUBLAS_FOLDER, name)}) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    reasons += std::string("; ") + dlerror();
  }
  fail(ErrorCode::kUnsupported,
       "--device cuda: {} cannot be opened: install it, or add its folder to LD_LIBRARY_PATH{}", name,
       reasons);
}

CublasLt find_functions(void* library) {
  CublasLt lt;
  const auto find = [library](const char* name, auto& function) {
    if (!find_function(library, name, function)) {
      fail(ErrorCode::kUnsupported, "cuBLASLt has no function {}", name);
    }
  };
  find("cublasLtGetVersion", lt.get_version);
  find("cublasLtGetStatusString", lt.get_status_string);
  find("cublasLtCreate", lt.create);
  find("cublasLtDestroy", lt.destroy);
  find("cublasLtMatmul", lt.matmul);
  find("cublasLtMatmulAlgoCheck", lt.algo_check);
  find("cublasLtMatmulAlgoGetHeuristic", lt.algo_get_heuristic);
  find("cublasLtMatmulDescCreate", lt.desc_create);
  find("cublasLtMatmulDescDestroy", lt.desc_destroy);
  find("cublasLtMatmulDescSetAttribute", lt.desc_set_attribute);
  find("cublasLtMatmulPreferenceCreate", lt.preference_create);
  find("cublasLtMatmulPreferenceDestroy", lt.preference_destroy);
  find("cublasLtMatmulPreferenceSetAttribute", lt.preference_set_attribute);
  find("cublasLtMatrixLayoutCreate", lt.layout_create);
  find("cublasLtMatrixLayoutDestroy", lt.layout_destroy);
  find("cublasLtMatrixLayoutSetAttribute", lt.layout_set_attribute);
  return lt;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt lt = find_functions(open_library());
  return lt;
}

}  // namespace winnow::cuda
