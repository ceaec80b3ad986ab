// oneDNN chooses how many threads a primitive may use when the primitive is made.
#pragma once

#include <omp.h>

namespace winnow::cpu {

class ThreadsForNewPrimitives {
 public:
  explicit ThreadsForNewPrimitives(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ThreadsForNewPrimitives() { omp_set_num_threads(before_); }
  ThreadsForNewPrimitives(const ThreadsForNewPrimitives&) = delete;
  ThreadsForNewPrimitives& operator=(const ThreadsForNewPrimitives&) = delete;

 private:
  int before_;
};

}  // namespace winnow::cpu
