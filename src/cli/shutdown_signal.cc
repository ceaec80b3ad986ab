#include "cli/shutdown_signal.h"

#include <atomic>

namespace winnow::cli {
namespace {

std::atomic<int> signals{0};
static_assert(std::atomic<int>::is_always_lock_free, "the signal handler must not lock");

void on_signal(int /*signal*/) { signals.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

ShutdownSignal::ShutdownSignal() {
  signals.store(0, std::memory_order_relaxed);
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, &previous_term_);
  sigaction(SIGINT, &action, &previous_int_);
}

ShutdownSignal::~ShutdownSignal() {
  sigaction(SIGTERM, &previous_term_, nullptr);
  sigaction(SIGINT, &previous_int_, nullptr);
}

int ShutdownSignal::count() const { return signals.load(std::memory_order_relaxed); }

}  // namespace winnow::cli
