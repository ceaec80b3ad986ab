// Which of several ways to compute the same is the fastest here: measured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "backends/cuda/device.h"

namespace winnow::cuda {

// run(i) issues way i of `count` on the device's stream and says whether it could. 0 if none could.
std::size_t fastest_of(Device& device, std::size_t count, const std::function<bool(std::size_t)>& run);

// Memory for a measurement on `rows` rows where x has `given`: x itself, or a copy whose first rows come
// again.
class MeasuredRows {
 public:
  MeasuredRows(Device& device, const void* x, std::int64_t given, std::int64_t rows, std::int64_t row_bytes);
  ~MeasuredRows();
  MeasuredRows(const MeasuredRows&) = delete;
  MeasuredRows& operator=(const MeasuredRows&) = delete;
  const void* data() const { return data_; }

 private:
  void* own_ = nullptr;
  const void* data_;
};

}  // namespace winnow::cuda
