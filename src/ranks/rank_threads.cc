#include "ranks/rank_threads.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace winnow {
namespace {

int usable_cores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
  return static_cast<int>(std::thread::hardware_concurrency());  // more cores than a cpu_set_t has room for
}

}  // namespace

int threads_of_rank(int asked, int ranks) {
  if (asked != 0 || ranks < 2) return asked;
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return 0;
  return std::max(1, usable_cores() / ranks);
}

}  // namespace winnow
