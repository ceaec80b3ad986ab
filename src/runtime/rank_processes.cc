#include "runtime/rank_processes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>

#include "core/error.h"
#include "ranks/shared_ranks.h"
#include "runtime/ranks.h"

namespace winnow {
namespace {

constexpr std::chrono::milliseconds kNap{5};
constexpr int kNapsBeforeEnd = 2000;

[[noreturn]] void run_rank(pid_t leader, const std::function<int(int)>& body, int rank) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != leader) _exit(1);
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_IGN);
  const int nothing = open("/dev/null", O_RDWR);
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO}) dup2(nothing, stream);
  int code = 1;
  try {
    code = body(rank);
  } catch (const std::exception& error) {
    fmt::print(stderr, "winnow: rank {}: {}\n", rank, error.what());
  }
  std::fflush(nullptr);
  _exit(code);
}

std::string how_it_ended(int rank, int status) {
  if (WIFSIGNALED(status)) {
    return fmt::format("rank {}'s process was ended by signal {} ({})", rank, WTERMSIG(status),
                       strsignal(WTERMSIG(status)));
  }
  return fmt::format("rank {}'s process ended with code {}", rank, WEXITSTATUS(status));
}

}  // namespace

RankProcesses::RankProcesses(int count, const std::function<int(int)>& body) {
  // Whoever started this may have it ignored, and how a process ended would then not be known.
  std::signal(SIGCHLD, SIG_DFL);
  const pid_t leader = getpid();
  for (int rank = 1; rank <= count; ++rank) {
    std::fflush(nullptr);  // or the child would print it again
    const pid_t process = fork();
    if (process < 0) fail(ErrorCode::kIo, "cannot start rank {}: {}", rank, std::strerror(errno));
    if (process == 0) run_rank(leader, body, rank);
    running_.push_back({rank, process});
  }
}

// What a rank leaves behind is whole at any time, so nothing is asked of it that it might not come to do.
RankProcesses::~RankProcesses() {
  for (const Process& process : running_) kill(process.id, SIGKILL);
  for (const Process& process : running_) waitpid(process.id, nullptr, 0);
}

void RankProcesses::wait() {
  const std::lock_guard lock(mutex_);
  const auto ended = [](const Process& process) { return waitpid(process.id, nullptr, WNOHANG) != 0; };
  for (int naps = 0; naps < kNapsBeforeEnd; ++naps) {
    std::erase_if(running_, ended);
    if (running_.empty()) return;
    std::this_thread::sleep_for(kNap);
  }
}

std::string RankProcesses::lost() {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < running_.size(); ++i) {
    int status = 0;
    const Process process = running_[i];
    if (waitpid(process.id, &status, WNOHANG) != process.id) continue;
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    return how_it_ended(process.rank, status);
  }
  return "";
}

std::shared_ptr<Communicator> start_ranks(int size) {
  const auto region = std::make_shared<SharedRegion>(size);
  const auto processes = std::make_shared<RankProcesses>(size - 1, [&region](int rank) {
    try {
      follow(join_region(region, rank));
    } catch (const std::exception&) {  // rank 0 has been told
      return 1;
    }
    return 0;
  });
  auto ranks = join_region(region, 0, [processes] { return processes->lost(); });
  return {ranks.release(), [processes](Communicator* last) {
            dismiss_followers(*last);
            processes->wait();
            delete last;
          }};
}

}  // namespace winnow
