// Device: one GPU as the CUDA backend uses it: its stream, its memory, and small host data on its way there.
//
// Everything runs on one stream a GPU, in order. Memory comes from the driver's pool, which keeps what is
// freed, so that a prefill allocates from the system only when it is longer than all before. Included by
// kernels too: no fmt in here.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace winnow::cuda {

// Error(kOutOfMemory) when memory ran out, Error(kUnsupported) with CUDA's own words otherwise.
void check_cuda(cudaError_t status, const char* what);
// After a kernel's launch.
inline void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

// The one stream of a GPU; made by the first call, alive as long as the process.
cudaStream_t stream_of(int device);

// Memory of the current device's pool, freed in the order of the stream; throws Error(kOutOfMemory).
void* allocate_bytes(std::int64_t bytes, int device);
void release_bytes(void* memory);

class Device {
 public:
  // Error(kUnsupported) when there is no GPU `index`, or none the kernels were compiled for.
  explicit Device(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  int index() const { return index_; }
  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return multiprocessors_; }
  const std::string& name() const { return name_; }
  std::int64_t free_memory() const;
  std::int64_t peak_memory() const;

  void finish();
  // Between host and device memory in either direction, or within the device, behind the ops issued so far.
  // The host's side of a copy to it is there after finish().
  void copy(void* to, const void* from, std::int64_t bytes);
  // To the host, and there on return.
  void download(void* host, const void* memory, std::int64_t bytes);
  // Host memory that a copy from the device arrives in without the host waiting; the caller reads it before
  // it asks for another, or downloads.
  std::byte* landing(std::int64_t bytes);
  void clear(void* memory, std::int64_t bytes);
  // Copies small host data behind the ops issued so far and returns where it will be for those that follow,
  // until some 16 MiB more are staged.
  const void* stage(const void* host, std::int64_t bytes);
  template <class T>
  const T* stage_as(const T* host, std::int64_t count) {
    return static_cast<const T*>(stage(host, count * static_cast<std::int64_t>(sizeof(T))));
  }
  // Working memory of one op, overwritten by the next that asks for it. Grows, never shrinks.
  void* scratch(std::int64_t bytes);

 private:
  void grow_ring(std::int64_t bytes);

  int index_ = 0;
  cudaStream_t stream_ = nullptr;
  int multiprocessors_ = 0;
  std::string name_;
  std::byte* pinned_ = nullptr;   // ring of host memory, and its copy on the device
  std::byte* landing_ = nullptr;  // pinned memory that downloads pass through
  std::byte* ring_ = nullptr;
  std::int64_t ring_bytes_ = 0, ring_used_ = 0, landing_bytes_ = 0;
  std::int64_t last_at_ = 0, last_bytes_ = 0;  // of the ring: what was staged last
  void* scratch_ = nullptr;
  std::int64_t scratch_bytes_ = 0;
};

}  // namespace winnow::cuda
