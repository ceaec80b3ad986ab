// Ctrl-C as a request: while an Interrupt is alive, SIGINT sets a flag instead of ending the program.
#pragma once

#include <csignal>

namespace winnow::cli {

// One at a time: the flag is the process's.
class Interrupt {
 public:
  Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt();

  bool requested() const;
  void clear();

 private:
  struct sigaction previous_;
};

}  // namespace winnow::cli
