// As long as it lives, the process may take so many bytes more: for tests of what happens when memory is
// short.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>

namespace winnow {

class LittleMemory {
 public:
  // Not with a sanitizer, which maps terabytes, and ends the process when it cannot map more.
  static bool possible() { return used() < rlim_t{1} << 40; }

  explicit LittleMemory(std::int64_t bytes) {
    EXPECT_EQ(getrlimit(RLIMIT_AS, &before_), 0);
    rlimit little = before_;
    little.rlim_cur = used() + static_cast<rlim_t>(bytes);
    EXPECT_EQ(setrlimit(RLIMIT_AS, &little), 0);
  }
  LittleMemory(const LittleMemory&) = delete;
  LittleMemory& operator=(const LittleMemory&) = delete;
  ~LittleMemory() { setrlimit(RLIMIT_AS, &before_); }

 private:
  static rlim_t used() {
    rlim_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
  }

  rlimit before_{};
};

}  // namespace winnow
