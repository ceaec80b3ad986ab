// Buffers of a GPU's memory.
#pragma once

#include "backends/cuda/device.h"
#include "core/buffer.h"

namespace winnow::cuda {

inline Buffer allocate_buffer(const Device& device, std::int64_t bytes) {
  return {allocate_bytes(bytes, device.index()), bytes, [](void* memory) { release_bytes(memory); }};
}

}  // namespace winnow::cuda
