// Ranks as processes of this host, forked from rank 0.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ranks/communicator.h"

namespace winnow {

// Processes forked from this one: ranks 1..count, each of which runs body(rank) and ends with its code. They
// end with this process, leave to it what signals ask of them all (Ctrl-C, a service manager's SIGTERM), and
// have no input or standard output. To be made before anything starts a thread or touches a GPU, by a thread
// that lives as long as the process. Error(kIo) when a process cannot be started.
class RankProcesses {
 public:
  RankProcesses(int count, const std::function<int(int rank)>& body);
  ~RankProcesses();  // ends those that still run, whatever they do
  RankProcesses(const RankProcesses&) = delete;
  RankProcesses& operator=(const RankProcesses&) = delete;

  // For them to end by themselves, but not for ever.
  void wait();
  // Of one that has ended, once: how; "" when there is none. Of any thread.
  std::string lost();

 private:
  struct Process {
    int rank;
    pid_t id;
  };
  std::mutex mutex_;  // of running_
  std::vector<Process> running_;
};

// Rank 0 of `size`: the others are RankProcesses that follow() until the last copy of what is returned goes.
std::shared_ptr<Communicator> start_ranks(int size);

}  // namespace winnow
