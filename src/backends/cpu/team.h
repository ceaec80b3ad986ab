// Team: the backend's threads kept awake over many small operations, as in decoding, where waking them
// through OpenMP for each of some 200 operations would cost a tenth of a token's time. One OpenMP region
// stays open; the threads but the first wait until parallel() hands them work: a while on their cores, then
// asleep.
//
// Operations take microseconds, so threads that another process keeps from their cores would hold up every
// one of them. Once the first thread has twice waited much longer than that for one body, it does all of the
// work itself for a while, as fast as one thread is, and then tries the team again; the longer the while, the
// more often it failed. Being held up once costs less than working alone does.
//
// Owned by the backend, opened by Backend::together(), used by parallel() alone. Inside, no other OpenMP
// region gets threads: oneDNN must not be called.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>

namespace winnow::cpu {

class Team {
 public:
  // least_alone: how long the first thread does everything after the others were held up for the first time.
  explicit Team(int threads, std::chrono::milliseconds least_alone = std::chrono::milliseconds(10));

  // Runs body() on the calling thread, with the others waiting for work. By one thread at a time.
  void open(const std::function<void()>& body);

  // The team whose body the calling thread runs, or nullptr.
  static Team* current();

  int threads() const { return threads_; }

  // work(thread) for every thread of the team, on that thread or, while the others are kept from their cores,
  // on the calling one; returns when all are done. The first exception is thrown again.
  template <class Fn>
  void run(Fn& work) {
    context_ = &work;
    call_ = [](void* context, int thread) { (*static_cast<Fn*>(context))(thread); };
    run_all();
  }

 private:
  void open_region(const std::function<void()>& body);
  void begin_round();
  void run_all();
  void serve(int thread);
  void execute(int thread);

  int threads_;
  bool alone_ = false;  // whether the first thread does everything
  int held_ups_ = 0;    // operations of the open body that took much longer
  std::chrono::steady_clock::time_point try_again_;
  std::chrono::milliseconds least_alone_, alone_for_;  // alone_for_: when it happens next
  void* context_ = nullptr;
  void (*call_)(void*, int) = nullptr;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  // On cache lines of their own: one is written by the first thread, one by the others.
  alignas(64) std::atomic<std::uint32_t> round_{0};
  std::atomic<bool> closed_{false};
  alignas(64) std::atomic<int> busy_{0};
};

}  // namespace winnow::cpu
