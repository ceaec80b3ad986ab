#include "backends/cpu/team.h"

#include <omp.h>

#include <thread>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace winnow::cpu {
namespace {

thread_local Team* current_team = nullptr;

// Waiting between two operations takes microseconds; where it takes longer, another process may need the
// core.
template <class Done>
void spin_until(Done done) {
  constexpr int kSpins = 4096;
  for (int i = 0; !done(); ++i) {
    if (i >= kSpins) {
      std::this_thread::yield();
      continue;
    }
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
}

}  // namespace

Team* Team::current() { return current_team; }

void Team::execute(int thread) {
  try {
    call_(context_, thread);
  } catch (...) {
    const std::lock_guard lock(failure_mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

void Team::run_all() {
  busy_.store(threads_ - 1, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  execute(0);
  spin_until([&] { return busy_.load(std::memory_order_acquire) == 0; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void Team::serve(int thread) {
  for (std::uint32_t seen = 0;;) {
    spin_until([&] { return round_.load(std::memory_order_acquire) != seen; });
    ++seen;
    if (closed_.load(std::memory_order_relaxed)) return;
    execute(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

void Team::open(int threads, const std::function<void()>& body) {
  if (threads == 1 || current_team != nullptr) return body();
  Team team(threads);
  std::exception_ptr failure;
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_thread_num() != 0) {
      team.serve(omp_get_thread_num());
    } else {
      if (omp_get_num_threads() == threads)
        current_team = &team;  // otherwise the region's other threads just wait
      try {
        body();
      } catch (...) {
        failure = std::current_exception();
      }
      current_team = nullptr;
      team.closed_.store(true, std::memory_order_relaxed);
      team.round_.fetch_add(1, std::memory_order_release);
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace winnow::cpu
