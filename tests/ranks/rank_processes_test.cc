// Processes forked as ranks: how they end.
#include "runtime/rank_processes.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

namespace winnow {
namespace {

int sleep_for_ever(int /*rank*/) {
  for (;;) ::pause();
}

std::string first_lost(RankProcesses& processes) {
  std::string why;
  for (int i = 0; i < 10000 && why.empty(); ++i) {
    why = processes.lost();
    if (why.empty()) ::usleep(1000);
  }
  return why;
}

// A pipe whose other end every process has: it is at its end when all have ended.
class Witness {
 public:
  Witness() { EXPECT_EQ(::pipe(ends_), 0); }
  bool all_have_ended() {
    ::close(ends_[1]);
    char byte;
    const bool at_end = ::read(ends_[0], &byte, 1) == 0;
    ::close(ends_[0]);
    return at_end;
  }

 private:
  int ends_[2] = {};
};

TEST(RankProcessesTest, EndWithTheirOwnerWhateverTheyDo) {
  Witness witness;
  { const RankProcesses processes(2, sleep_for_ever); }
  EXPECT_TRUE(witness.all_have_ended());
}

TEST(RankProcessesTest, OneThatEndsIsNamedOnce) {
  RankProcesses processes(2, [](int rank) { return rank == 2 ? 7 : sleep_for_ever(rank); });
  EXPECT_EQ(first_lost(processes), "rank 2's process ended with code 7");
  EXPECT_EQ(processes.lost(), "");
}

// Some launchers ignore SIGCHLD, and the system then keeps no record of how a process has ended.
TEST(RankProcessesTest, AreKnownToHaveEndedWhateverTheLauncherIgnores) {
  const auto before = std::signal(SIGCHLD, SIG_IGN);
  RankProcesses processes(1, [](int) { return 0; });
  EXPECT_EQ(first_lost(processes), "rank 1's process ended with code 0");
  std::signal(SIGCHLD, before);
}

}  // namespace
}  // namespace winnow
