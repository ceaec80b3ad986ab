// Time spent, for what is reported beside results.
#pragma once

#include <chrono>

namespace winnow {

// Milliseconds since `start`.
inline double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace winnow
