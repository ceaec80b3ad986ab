// RowChoice on the GPU: the rows stay there for the ops that follow, and come to the host beside them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/row_choice.h"

namespace winnow::cuda {

class CudaRowChoice final : public RowChoice {
 public:
  // `scores` [params.tokens] in device memory, read by ops issued here.
  CudaRowChoice(const RowChoiceParams& params, const float* scores, Device& device);
  ~CudaRowChoice() override;

  std::int64_t count() const override { return count_; }
  ChosenRows wait() override;
  // Of the cache, in device memory and on the host, which waits for them.
  const std::int32_t* rows() const { return memory_.as<std::int32_t>(); }
  std::vector<std::int64_t> cache_rows() const;
  std::int64_t first_row() const { return first_row_; }  // of the tokens that were chosen from

 private:
  std::int64_t first_row_, count_;
  Buffer memory_;                 // rows, pooled scores
  std::byte* landing_ = nullptr;  // pinned: the summary and rows
  cudaEvent_t landed_ = nullptr;
};

}  // namespace winnow::cuda
