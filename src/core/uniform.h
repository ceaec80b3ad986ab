// Uniform noise as a function of a stream and an index: the same on every device, in any order.
#pragma once

#include <cstdint>

namespace winnow {

// In [-1, 1). (The finaliser of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
// generators", 2014.)
constexpr float uniform(std::uint64_t stream, std::uint64_t index) {
  std::uint64_t x = stream + index * 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return static_cast<float>(static_cast<std::int64_t>(x >> 40) - (1 << 23)) * 0x1p-23f;
}

}  // namespace winnow
