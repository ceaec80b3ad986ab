// Device memory of the GPU benchmarks.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "backends/cuda/device.h"

namespace winnow::cuda {

template <class T>
struct DeviceArray {
  explicit DeviceArray(std::int64_t n) : count(n) {
    check_cuda(cudaMalloc(&data, static_cast<std::size_t>(n) * sizeof(T)), "bench memory");
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(static_cast<std::int64_t>(host.size())) {
    check_cuda(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  ~DeviceArray() { cudaFree(data); }
  DeviceArray(const DeviceArray&) = delete;
  std::vector<T> host() const {
    std::vector<T> result(static_cast<std::size_t>(count));
    check_cuda(cudaMemcpy(result.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return result;
  }
  T* data = nullptr;
  std::int64_t count;
};

}  // namespace winnow::cuda
