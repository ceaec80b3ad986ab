#include "backends/cuda/device.h"

#include <array>
#include <cstring>
#include <mutex>

#include "core/check.h"
#include "core/error.h"

namespace winnow::cuda {
namespace {

constexpr int kMaxDevices = 64;
constexpr std::int64_t kRingBytes = 16 << 20;
constexpr std::int64_t kLandingBytes = 2 << 20;
constexpr std::int64_t kAlign = 256;

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // it is reported once
  if (status == cudaErrorMemoryAllocation) {
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail(ErrorCode::kOutOfMemory, "the GPU has no memory left for {}: {} MiB of {} are free", what,
         free >> 20, total >> 20);
  }
  fail(ErrorCode::kUnsupported, "CUDA: {}: {} ({})", what, cudaGetErrorString(status),
       cudaGetErrorName(status));
}

cudaStream_t stream_of(int device) {
  static std::mutex mutex;
  static std::array<cudaStream_t, kMaxDevices> streams{};
  check(device >= 0 && device < kMaxDevices, "the GPU's number is in range");
  const std::lock_guard lock(mutex);
  cudaStream_t& stream = streams[static_cast<std::size_t>(device)];
  if (stream == nullptr) {
    int current = 0;
    check_cuda(cudaGetDevice(&current), "cudaGetDevice");
    check_cuda(cudaSetDevice(device), "cudaSetDevice");
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    check_cuda(cudaSetDevice(current), "cudaSetDevice");
  }
  return stream;
}

void* allocate_bytes(std::int64_t bytes, int device) {
  void* memory = nullptr;
  check_cuda(cudaSetDevice(device), "cudaSetDevice");  // another thread may call than before
  // The pool hands out nothing for nothing; a pointer is wanted all the same.
  const auto size = static_cast<std::size_t>(bytes > 0 ? bytes : 1);
  cudaError_t status = cudaMallocAsync(&memory, size, stream_of(device));
  if (status == cudaErrorMemoryAllocation) {  // what was freed may not have arrived in the pool yet
    cudaGetLastError();
    cudaStreamSynchronize(stream_of(device));
    cudaMemPool_t pool = nullptr;
    if (cudaDeviceGetDefaultMemPool(&pool, device) == cudaSuccess) cudaMemPoolTrimTo(pool, 0);
    status = cudaMallocAsync(&memory, size, stream_of(device));
  }
  check_cuda(status, "an allocation");
  return memory;
}

void release_bytes(void* memory) {
  if (memory == nullptr) return;
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, memory) != cudaSuccess) return;  // the process is ending
  cudaFreeAsync(memory, stream_of(attributes.device));
}

Device::Device(int index) : index_(index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    fail(ErrorCode::kUnsupported, "--device cuda: no GPU was found ({}); use --device cpu",
         status == cudaSuccess ? "the driver lists none" : cudaGetErrorString(status));
  }
  if (index < 0 || index >= count) {
    fail(ErrorCode::kUnsupported, "--device cuda:{}: there are {} GPUs, numbered from 0", index, count);
  }
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  name_ = properties.name;
  multiprocessors_ = properties.multiProcessorCount;
  if (properties.major != 9) {
    fail(ErrorCode::kUnsupported,
         "--device cuda:{}: {} has compute capability {}.{}; the kernels are for 9.0 (Hopper)", index, name_,
         properties.major, properties.minor);
  }
  check_cuda(cudaSetDevice(index), "cudaSetDevice");
  stream_ = stream_of(index);
  cudaMemPool_t pool = nullptr;
  check_cuda(cudaDeviceGetDefaultMemPool(&pool, index), "cudaDeviceGetDefaultMemPool");
  std::uint64_t keep = ~std::uint64_t{0};
  check_cuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "the memory pool");
  grow_ring(kRingBytes);
  landing(kLandingBytes);
}

Device::~Device() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  cudaFreeHost(pinned_);
  cudaFreeHost(landing_);
  release_bytes(ring_);
  release_bytes(scratch_);
}

std::int64_t Device::free_memory() const {
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  cudaMemPool_t pool = nullptr;
  check_cuda(cudaDeviceGetDefaultMemPool(&pool, index_), "cudaDeviceGetDefaultMemPool");
  std::uint64_t reserved = 0, used = 0;
  check_cuda(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "the memory pool");
  check_cuda(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), "the memory pool");
  return static_cast<std::int64_t>(free + (reserved - used));
}

std::int64_t Device::peak_memory() const {
  cudaMemPool_t pool = nullptr;
  std::uint64_t most = 0;
  check_cuda(cudaDeviceGetDefaultMemPool(&pool, index_), "cudaDeviceGetDefaultMemPool");
  check_cuda(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &most), "the memory pool");
  return static_cast<std::int64_t>(most);
}

void Device::copy(void* to, const void* from, std::int64_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream_),
             "a copy");
}

// What is not pinned is copied in pieces by the driver, with a wait for each.
void Device::download(void* host, const void* memory, std::int64_t bytes) {
  if (bytes > kLandingBytes) {
    copy(host, memory, bytes);
    return finish();
  }
  copy(landing_, memory, bytes);
  finish();
  std::memcpy(host, landing_, static_cast<std::size_t>(bytes));
}

std::byte* Device::landing(std::int64_t bytes) {
  if (bytes > landing_bytes_) {
    finish();
    check_cuda(cudaFreeHost(landing_), "cudaFreeHost");
    landing_ = nullptr;
    landing_bytes_ = 0;  // should the allocation fail
    void* landing = nullptr;
    check_cuda(cudaMallocHost(&landing, static_cast<std::size_t>(bytes)), "cudaMallocHost");
    landing_ = static_cast<std::byte*>(landing);
    landing_bytes_ = bytes;
  }
  return landing_;
}

void Device::clear(void* memory, std::int64_t bytes) {
  check_cuda(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), stream_), "clearing memory");
}

void Device::finish() { check_cuda(cudaStreamSynchronize(stream_), "an operation"); }

void Device::grow_ring(std::int64_t bytes) {
  finish();
  check_cuda(cudaFreeHost(pinned_), "cudaFreeHost");
  release_bytes(ring_);
  void* pinned = nullptr;
  check_cuda(cudaMallocHost(&pinned, static_cast<std::size_t>(bytes)), "cudaMallocHost");
  pinned_ = static_cast<std::byte*>(pinned);
  ring_ = static_cast<std::byte*>(allocate_bytes(bytes, index_));
  ring_bytes_ = bytes;
  ring_used_ = last_bytes_ = 0;
}

const void* Device::stage(const void* host, std::int64_t bytes) {
  check_cuda(cudaSetDevice(index_), "cudaSetDevice");
  // Layers in a row want the same positions.
  if (bytes == last_bytes_ && std::memcmp(pinned_ + last_at_, host, static_cast<std::size_t>(bytes)) == 0) {
    return ring_ + last_at_;
  }
  const std::int64_t taken = (bytes + kAlign - 1) / kAlign * kAlign;
  if (taken > ring_bytes_) grow_ring(2 * taken);
  if (ring_used_ + taken > ring_bytes_) {
    finish();
    ring_used_ = 0;
  }
  std::byte* const slot = ring_ + ring_used_;
  std::memcpy(pinned_ + ring_used_, host, static_cast<std::size_t>(bytes));
  check_cuda(cudaMemcpyAsync(slot, pinned_ + ring_used_, static_cast<std::size_t>(bytes),
                             cudaMemcpyHostToDevice, stream_),
             "a copy to the GPU");
  last_at_ = ring_used_;
  last_bytes_ = bytes;
  ring_used_ += taken;
  return slot;
}

void* Device::scratch(std::int64_t bytes) {
  if (bytes > scratch_bytes_) {
    release_bytes(scratch_);
    scratch_ = nullptr;
    scratch_ = allocate_bytes(bytes, index_);
    scratch_bytes_ = bytes;
  }
  return scratch_;
}

}  // namespace winnow::cuda
