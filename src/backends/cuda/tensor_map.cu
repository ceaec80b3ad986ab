#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "backends/cuda/device.h"
#include "backends/cuda/tensor_map.h"
#include "core/check.h"

namespace winnow::cuda {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check_cuda(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
      "cuTensorMapEncodeTiled");
  if (found != cudaDriverEntryPointSuccess) check_cuda(cudaErrorInsufficientDriver, "cuTensorMapEncodeTiled");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace

CUtensorMap make_tensor_map(const HeadMatrix& matrix, std::int64_t box_rows) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = find_encoder();
  const auto size = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t sizes[] = {size(matrix.columns), size(matrix.rows), size(matrix.heads)};
  const cuuint64_t strides[] = {size(matrix.row_stride * 2), size(matrix.head_stride * 2)};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows), 1}, steps[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(matrix.data), sizes, strides, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(result == CUDA_SUCCESS, "tensor map: addresses and strides are multiples of 16 bytes");
  return map;
}

}  // namespace winnow::cuda
