// SIGTERM and SIGINT as requests: while a ShutdownSignal is alive they are counted instead of ending the
// program.
#pragma once

#include <csignal>

namespace winnow::cli {

// One at a time: the count is the process's.
class ShutdownSignal {
 public:
  ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;
  ~ShutdownSignal();

  int count() const;

 private:
  struct sigaction previous_term_, previous_int_;
};

}  // namespace winnow::cli
