// Descriptors for the bulk tensor copy engine (TMA) over matrices of heads.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace winnow::cuda {

// [heads] of [rows] of [columns] bf16, strides in elements. A box is 64 columns (128 bytes, with the 128-byte
// swizzle) of `box_rows` rows of one head; what it reads outside the tensor is zero. The driver's encoder is
// looked up at run time: nothing links against libcuda.
struct HeadMatrix {
  const void* data = nullptr;
  std::int64_t columns = 0, rows = 0, heads = 0;
  std::int64_t row_stride = 0, head_stride = 0;
};
CUtensorMap make_tensor_map(const HeadMatrix& matrix, std::int64_t box_rows);

}  // namespace winnow::cuda
