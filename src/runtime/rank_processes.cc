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
  std::signal(SIGINT, SIG_IGN);
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
  const pid_t leader = getpid();
  for (int rank = 1; rank <= count; ++rank) {
    std::fflush(nullptr);  // or the child would print it again
    const pid_t process = fork();
    if (process < 0) fail(ErrorCode::kIo, "cannot start rank {}: {}", rank, std::strerror(errno));
    if (process == 0) run_rank(leader, body, rank);
    running_.push_back({rank, process});
  }
}

RankProcesses::~RankProcesses() {
  const auto ended = [](const Process& process) {
    return waitpid(process.id, nullptr, WNOHANG) == process.id;
  };
  for (int naps = 0; !running_.empty() && naps < kNapsBeforeEnd; ++naps) {
    std::erase_if(running_, ended);
    if (!running_.empty()) std::this_thread::sleep_for(kNap);
  }
  for (const Process& process : running_) {  // waits for a rank that is gone
    kill(process.id, SIGKILL);
    waitpid(process.id, nullptr, 0);
  }
}

std::string RankProcesses::lost() {
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
            delete last;
          }};
}

}  // namespace winnow
