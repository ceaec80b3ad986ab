#include "backends/cpu/team.h"

#include <omp.h>

#include <algorithm>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace winnow::cpu {
namespace {

thread_local Team* current_team = nullptr;

// As a thread is, now and then, by whatever else runs on a machine.
constexpr int kHeldUpsBorne = 1;
// Trying the team costs up to a time slice of the scheduler, some milliseconds.
constexpr int kMostAlone = 32;  // times as long as the first time

// Returns when `value` is no longer `old`, and whether that took longer than operations do.
template <class T>
bool wait_for_change(const std::atomic<T>& value, T old) {
  constexpr int kSpins = 8192;  // some 100 microseconds
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return false;
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  value.wait(old, std::memory_order_acquire);
  return true;
}

}  // namespace

Team::Team(int threads, std::chrono::milliseconds least_alone)
    : threads_(threads), least_alone_(least_alone), alone_for_(least_alone) {}

Team* Team::current() { return current_team; }

void Team::execute(int thread) {
  try {
    call_(context_, thread);
  } catch (...) {
    const std::lock_guard lock(failure_mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

// Increments are sequentially consistent: notify must not look for sleepers before they are seen.
void Team::begin_round() {
  round_.fetch_add(1);
  round_.notify_all();
}

void Team::run_all() {
  if (alone_) {
    for (int thread = 0; thread < threads_; ++thread) execute(thread);
  } else {
    busy_.store(threads_ - 1, std::memory_order_relaxed);
    begin_round();
    execute(0);
    bool held_up = false;
    for (int busy; (busy = busy_.load(std::memory_order_acquire)) != 0;) {
      held_up |= wait_for_change(busy_, busy);
    }
    if (held_up) alone_ = ++held_ups_ > kHeldUpsBorne;
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void Team::serve(int thread) {
  for (std::uint32_t seen = 0;; ++seen) {
    wait_for_change(round_, seen);
    if (closed_.load(std::memory_order_relaxed)) return;
    execute(thread);
    if (busy_.fetch_sub(1) == 1) busy_.notify_one();
  }
}

void Team::open(const std::function<void()>& body) {
  if (threads_ == 1 || current_team != nullptr) return body();
  alone_ = std::chrono::steady_clock::now() < try_again_;
  if (!alone_) {
    held_ups_ = 0;
    open_region(body);
    if (alone_) {
      try_again_ = std::chrono::steady_clock::now() + alone_for_;
      alone_for_ = std::min(2 * alone_for_, kMostAlone * least_alone_);
    } else if (held_ups_ == 0) {
      alone_for_ = std::max(alone_for_ / 2, least_alone_);
    }
    return;
  }
  current_team = this;
  try {
    body();
  } catch (...) {
    current_team = nullptr;
    throw;
  }
  current_team = nullptr;
}

void Team::open_region(const std::function<void()>& body) {
  round_.store(0, std::memory_order_relaxed);
  closed_.store(false, std::memory_order_relaxed);
  std::exception_ptr failure;
#pragma omp parallel num_threads(threads_)
  {
    if (omp_get_thread_num() != 0) {
      serve(omp_get_thread_num());
    } else {
      if (omp_get_num_threads() == threads_)
        current_team = this;  // otherwise the region's other threads just wait
      try {
        body();
      } catch (...) {
        failure = std::current_exception();
      }
      current_team = nullptr;
      closed_.store(true, std::memory_order_relaxed);
      begin_round();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace winnow::cpu
