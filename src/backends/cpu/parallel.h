// parallel(): one OpenMP region over the backend's threads, the pool oneDNN uses as well; inside a Team, no
// region but a word to threads that are awake.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <utility>

#include "backends/cpu/team.h"

namespace winnow::cpu {

// How many threads a parallel region of `threads` really gets: OMP_THREAD_LIMIT, or a caller's own region,
// may allow fewer.
inline int deliverable_threads(int threads) {
  omp_set_dynamic(
      0);  // otherwise a loaded machine gets smaller teams, and oneDNN computes a part of its result only
  int team = 1;
#pragma omp parallel num_threads(threads)
  {
#pragma omp single
    team = omp_get_num_threads();
  }
  return team;
}

// Runs fn(thread) on threads 0..threads-1, of which deliverable_threads() made sure. The first exception is
// thrown again when all are done.
template <class Fn>
void parallel(int threads, Fn&& fn) {
  if (threads == 1) {
    fn(0);
    return;
  }
  if (Team* team = Team::current(); team != nullptr && team->threads() == threads) return team->run(fn);
  std::exception_ptr failure;
#pragma omp parallel num_threads(threads)
  for (int thread = omp_get_thread_num(); thread < threads; thread += omp_get_num_threads()) {
    try {
      fn(thread);
    } catch (...) {
#pragma omp critical(winnow_parallel_failure)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

// The share of [0, n) that belongs to `part` of `parts`, in multiples of `grain`.
inline std::pair<std::int64_t, std::int64_t> share(std::int64_t n, int part, int parts,
                                                   std::int64_t grain = 1) {
  const std::int64_t grains = (n + grain - 1) / grain;
  const std::int64_t begin = std::min(n, grains * part / parts * grain);
  const std::int64_t end = std::min(n, grains * (part + 1) / parts * grain);
  return {begin, end};
}

// fn(begin, end) for pieces of [0, n), handed out as threads come for them, smaller towards the end: a thread
// whose core another process has taken keeps the others waiting for one piece only. For results that do not
// depend on who computes them.
template <class Fn>
void parallel_pieces(int threads, std::int64_t n, Fn&& fn) {
  if (n == 0) return;
  std::atomic<std::int64_t> next{0};
  parallel(threads, [&](int) {
    for (std::int64_t begin = next.load(std::memory_order_relaxed); begin < n;) {
      const std::int64_t end = begin + std::max<std::int64_t>(1, (n - begin) / (2 * threads));
      if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      fn(begin, end);
      begin = next.load(std::memory_order_relaxed);
    }
  });
}

// Rows [0, n) in equal contiguous shares, the same share for the same thread every time: what a thread wrote
// in one op is in its own cache in the next.
template <class Fn>
void parallel_rows(int threads, std::int64_t n, Fn&& fn) {
  if (n == 1 || threads == 1) {
    fn(std::int64_t{0}, n);
    return;
  }
  parallel(threads, [&](int thread) {
    const auto [begin, end] = share(n, thread, threads);
    if (begin < end) fn(begin, end);
  });
}

}  // namespace winnow::cpu
