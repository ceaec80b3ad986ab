// Which of several ways to compute the same is the fastest here: measured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "backends/cuda/device.h"
#include "core/buffer.h"

namespace winnow::cuda {

// Milliseconds of each of `count` ways, the least of `rounds`; run(i) issues way i on the device's stream and
// says whether it could.
std::vector<float> measure_ways(Device& device, std::size_t count, int rounds,
                                const std::function<bool(std::size_t)>& run);
// The fastest for the rows at hand among those that are nearly so for the most rows its choice is for.
std::size_t fastest_way(const std::vector<float>& here, const std::vector<float>& most);
// The same of `rows` and `most` rows; measure(rows, rounds) is measure_ways() of so many.
std::size_t fastest_way(std::int64_t rows, std::int64_t most,
                        const std::function<std::vector<float>(std::int64_t, int)>& measure);

// Memory for a measurement on `rows` rows where x has `given`: x itself, or a copy whose first rows come
// again.
class MeasuredRows {
 public:
  MeasuredRows(Device& device, const void* x, std::int64_t given, std::int64_t rows, std::int64_t row_bytes);
  const void* data() const { return data_; }

 private:
  Buffer own_;
  const void* data_;
};

}  // namespace winnow::cuda
