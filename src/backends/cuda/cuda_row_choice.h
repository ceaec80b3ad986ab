// RowChoice on the GPU: the rows stay there for the ops that follow, and come to the host beside them.
#pragma once

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
  const std::int64_t* rows() const;  // device [count]

 private:
  Device& device_;
  std::int64_t count_;
  Buffer memory_;                 // rows, pooled scores
  std::byte* landing_ = nullptr;  // pinned: the summary and rows
  cudaEvent_t landed_ = nullptr;
};

}  // namespace winnow::cuda
