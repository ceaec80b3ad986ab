// parallel_tasks(): tasks of unequal length that use the tile kernels.
#pragma once

#include <atomic>
#include <cstdint>

#include "backends/cpu/parallel.h"
#include "backends/cpu/tile_kernels.h"

namespace winnow::cpu {

// Runs fn(task, thread) for tasks 0..count-1, highest first: causal tasks grow with their number, and the
// longest should not come last.
template <class Fn>
void parallel_tasks(int threads, std::int64_t count, const TileKernels& kernels, Fn&& fn) {
  std::atomic<std::int64_t> left{count};
  parallel(threads, [&](int thread) {
    if (kernels.enter != nullptr) kernels.enter();
    for (std::int64_t task; (task = --left) >= 0;) fn(task, thread);
    if (kernels.leave != nullptr) kernels.leave();
  });
}

}  // namespace winnow::cpu
