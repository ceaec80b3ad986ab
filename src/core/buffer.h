// Buffer: owning, 64-byte aligned, move-only bytes. Made by a Backend (device memory) or by Buffer::host().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "core/error.h"

namespace winnow {

class Buffer {
 public:
  using Free = void (*)(void*);

  Buffer() = default;
  Buffer(void* data, std::int64_t bytes, Free free) : data_(data, free), bytes_(bytes) {}

  // Uninitialised host memory; throws Error(kOutOfMemory). `bytes` may be 0.
  static Buffer host(std::int64_t bytes) {
    void* data = ::operator new (static_cast<std::size_t>(bytes), std::align_val_t{64}, std::nothrow);
    if (data == nullptr) fail(ErrorCode::kOutOfMemory, "cannot allocate {} bytes", bytes);
    return Buffer(data, bytes, [](void* p) { ::operator delete (p, std::align_val_t{64}); });
  }

  template <class T = std::byte>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<void, Free> data_{nullptr, nullptr};
  std::int64_t bytes_ = 0;
};

}  // namespace winnow
