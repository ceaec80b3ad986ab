// StepGraphs: ops put off between begin() and end() and run as one CUDA graph.
//
// A decoded token is some hundreds of short kernels, and the host takes longer to issue them than a GPU to
// run those of a small model. Within a step the same ops come with the same arguments every time, but for a
// few numbers (positions, rows), which kernels read from device memory. So a step is a list of launches with
// a key each; the second time a list of keys comes, it is captured as a graph, and from then on replayed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <list>
#include <span>
#include <vector>

#include "backends/cuda/device.h"

namespace winnow::cuda {

// A number for a list of arguments: equal lists, equal numbers.
template <class... Args>
std::uint64_t key_of(const Args&... args) {
  std::uint64_t key = 0x9e3779b97f4a7c15ull;
  const auto mix = [&key](std::uint64_t value) {
    key = (key ^ value) * 0xff51afd7ed558ccdull;
    key ^= key >> 32;
  };
  const auto bits = [](const auto& value) {
    std::uint64_t number = 0;
    static_assert(sizeof(value) <= sizeof(number));
    __builtin_memcpy(&number, &value, sizeof(value));
    return number;
  };
  (mix(bits(args)), ...);
  return key;
}

class StepGraphs {
 public:
  explicit StepGraphs(Device& device);
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  void begin();
  void end();

  // Runs `launch` now, or at the end of the step. `key` stands for everything the launch depends on.
  void submit(std::uint64_t key, std::function<void()> launch);
  // Where kernels find these numbers: the same place for the same step.
  const std::int32_t* numbers(std::span<const std::int32_t> values);
  // The steps captured so far are captured anew when they come again: what they hold may go.
  void forget();
  // Before an op that cannot be put off: what was put off runs first.
  void flush();

 private:
  struct Launch {
    std::uint64_t key;
    std::function<void()> run;
  };
  struct Graph {
    std::uint64_t key = 0;
    cudaGraphExec_t exec = nullptr;  // null: came once so far
  };

  void upload_numbers();
  void run_pending();
  cudaGraphExec_t capture();

  Device& device_;
  bool in_step_ = false, broken_ = false;
  std::vector<Launch> pending_;
  std::vector<std::int32_t> values_;
  std::int32_t* device_values_ = nullptr;
  std::size_t uploaded_ = 0;
  std::list<Graph> graphs_;  // the last used first
};

}  // namespace winnow::cuda
