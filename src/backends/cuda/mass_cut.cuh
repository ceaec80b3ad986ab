// The fewest values, largest first and of equal ones the later first, that add up to a wanted mass: found by
// a block of threads with a bisection over the bits of a float. As Chooser of backends/block_choice.cc.
#pragma once

#include <cstdint>

namespace winnow::cuda {

// Value x at index i is chosen if it is above `lowest`, or equal to it and at `first_equal` or later.
struct Cut {
  float lowest = INFINITY;
  int first_equal = 0x7fffffff;
  __device__ bool takes(float x, int i) const { return x > lowest || (x == lowest && i >= first_equal); }
};

// Of the values of all kThreads threads; the same on all of them, and always added in the same order.
template <int kThreads>
__device__ double block_sum(double x) {
  __shared__ double sums[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  double total = 0;
  for (int i = 0; i < kThreads / 32; ++i) total += sums[i];
  return total;
}

// get(i) for i < count: a value, not negative; negative if it does not stand for election.
//
// The largest float from which on the values suffice; as bits, floats that are not negative are ordered.
// Every warp adds up all values from a bound of its own, so that a round finds log2(warps) bits: for counts
// that are small beside the exchange of sums.
template <int kThreads, class Get>
__device__ float search_by_warps(const Get& get, int count, double wanted) {
  constexpr std::uint32_t kWarps = kThreads / 32;
  __shared__ double sums[kWarps];
  const std::uint32_t warp = threadIdx.x / 32;
  std::uint32_t low = 1, high = 0x7f800000u;
  while (high - low > 1) {
    const std::uint32_t step = (high - low + kWarps) / (kWarps + 1);
    const float from = __uint_as_float(min(low + (warp + 1) * step, high));
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) {
      const float x = get(i);
      if (x >= from) sum += static_cast<double>(x);
    }
    for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
    if (threadIdx.x % 32 == 0) sums[warp] = sum;
    __syncthreads();
    std::uint32_t bound = low;
    for (std::uint32_t i = 0; i < kWarps; ++i) {
      const std::uint32_t tried = min(low + (i + 1) * step, high);
      if (tried < high && sums[i] >= wanted) bound = tried;
    }
    high = min(bound + step, high);
    low = bound;
    __syncthreads();
  }
  return __uint_as_float(low);
}

// The same with all threads adding up the values from one bound: for long lists.
template <int kThreads, class Get>
__device__ float search_by_block(const Get& get, int count, double wanted) {
  std::uint32_t low = 1, high = 0x7f800000u;
  while (high - low > 1) {
    const std::uint32_t middle = low + (high - low) / 2;
    const float from = __uint_as_float(middle);
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      const float x = get(i);
      if (x >= from) sum += static_cast<double>(x);
    }
    (block_sum<kThreads>(sum) >= wanted ? low : high) = middle;
  }
  return __uint_as_float(low);
}

template <int kThreads, class Get>
__device__ Cut find_cut(const Get& get, int count, double wanted) {
  if (wanted <= 0) return {};
  Cut cut{count <= 32 * kThreads / 8 ? search_by_warps<kThreads>(get, count, wanted)
                                     : search_by_block<kThreads>(get, count, wanted),
          0};
  double above = 0, equal = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const float x = get(i);
    above += x > cut.lowest ? static_cast<double>(x) : 0.0;
    equal += x == cut.lowest ? 1.0 : 0.0;
  }
  const auto lowest = static_cast<double>(cut.lowest);
  const double missing = wanted - block_sum<kThreads>(above);
  equal = block_sum<kThreads>(equal);
  if ((equal - 1) * lowest < missing) return cut;  // all of the equal ones
  __shared__ int first_equal;
  if (threadIdx.x == 0) {
    double left = missing;
    int i = count;
    while (i > 0 && left > 0) left -= get(--i) == cut.lowest ? lowest : 0.0;
    first_equal = i;
  }
  __syncthreads();
  cut.first_equal = first_equal;
  return cut;
}

// By mass; `taken` of the total is in already. Threshold 1: all that are not 0.
template <int kThreads, class Get>
__device__ Cut cut_mass(const Get& get, int count, double total, double taken, float threshold) {
  if (threshold >= 1) return {__uint_as_float(1), 0};
  return find_cut<kThreads>(get, count, static_cast<double>(threshold) * total - taken);
}

}  // namespace winnow::cuda
