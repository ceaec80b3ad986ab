// Team: the backend's threads kept awake over many small operations, as in decoding, where waking them
// through OpenMP for each of some 200 operations would cost a tenth of a token's time. One OpenMP region
// stays open; the threads but the first spin until parallel() hands them work.
//
// Made by Backend::together(), used by parallel() alone. Inside, no other OpenMP region gets threads: oneDNN
// must not be called.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>

namespace winnow::cpu {

class Team {
 public:
  // Runs body() on the calling thread, with the others of `threads` waiting for work.
  static void open(int threads, const std::function<void()>& body);

  // The team whose body the calling thread runs, or nullptr.
  static Team* current();

  int threads() const { return threads_; }

  // work(thread) on every thread of the team; returns when all are done. The first exception is thrown again.
  template <class Fn>
  void run(Fn& work) {
    context_ = &work;
    call_ = [](void* context, int thread) { (*static_cast<Fn*>(context))(thread); };
    run_all();
  }

 private:
  explicit Team(int threads) : threads_(threads) {}
  void run_all();
  void serve(int thread);
  void execute(int thread);

  int threads_;
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
