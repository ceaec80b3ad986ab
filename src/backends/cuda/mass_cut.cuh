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
template <int kThreads, class Get>
__device__ Cut find_cut(const Get& get, int count, double wanted) {
  if (wanted <= 0) return {};
  const auto sum_if = [&](const auto& counts) {
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      const float x = get(i);
      if (counts(x)) sum += static_cast<double>(x);
    }
    return block_sum<kThreads>(sum);
  };
  // The largest float from which on the values suffice; as bits, floats that are not negative are ordered.
  std::uint32_t low = 1, high = 0x7f800000u;
  while (high - low > 1) {
    const std::uint32_t middle = low + (high - low) / 2;
    const float from = __uint_as_float(middle);
    (sum_if([=](float x) { return x >= from; }) >= wanted ? low : high) = middle;
  }
  Cut cut{__uint_as_float(low), 0};
  const auto lowest = static_cast<double>(cut.lowest);
  const double missing = wanted - sum_if([=](float x) { return x > cut.lowest; });
  const double equal = sum_if([=](float x) { return x == cut.lowest; }) / lowest;
  if ((equal - 1.5) * lowest < missing - lowest) return cut;  // all of the equal ones
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
