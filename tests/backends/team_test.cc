// together(): work reaches every thread, exceptions come back, and a loaded or nested region does no harm.
#include "backends/cpu/team.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "backends/cpu/parallel.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

TEST(Team, EveryThreadDoesEveryRound) {
  constexpr int kThreads = 3, kRounds = 500;
  std::vector<int> rounds(kThreads);
  cpu::Team team(kThreads);
  team.open([&] {
    ASSERT_NE(cpu::Team::current(), nullptr);
    for (int i = 0; i < kRounds; ++i) {
      cpu::parallel(kThreads, [&](int thread) { ++rounds[static_cast<std::size_t>(thread)]; });
      for (const int count : rounds) EXPECT_EQ(count, i + 1);
    }
  });
  EXPECT_EQ(cpu::Team::current(), nullptr);
}

TEST(Team, ExceptionsOfAnyThreadAreThrownAgain) {
  for (const int thrower : {0, 1}) {
    std::atomic<int> after{0};
    cpu::Team team(2);
    team.open([&] {
      EXPECT_THROW(cpu::parallel(2,
                                 [&](int thread) {
                                   if (thread == thrower) throw std::runtime_error("work");
                                 }),
                   std::runtime_error);
      cpu::parallel(2, [&](int thread) { after += thread; });
    });
    EXPECT_EQ(after, 1);
  }
  cpu::Team team(2);
  EXPECT_THROW(team.open([] { throw std::runtime_error("body"); }), std::runtime_error);
}

TEST(Team, ATeamInsideATeamIsTheSameTeam) {
  std::atomic<int> done{0};
  cpu::Team outer(2), inner(2);
  outer.open([&] { inner.open([&] { cpu::parallel(2, [&](int) { ++done; }); }); });
  EXPECT_EQ(done, 2);
}

TEST(Team, AThreadThatIsHeldUpIsDoneWithout) {
  cpu::Team team(2, std::chrono::minutes(1));
  const auto first = std::this_thread::get_id();
  std::vector<std::thread::id> ran_on(2);
  const auto round = [&](bool held_up) {
    cpu::parallel(2, [&](int thread) {
      if (held_up && thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(100));
      ran_on[static_cast<std::size_t>(thread)] = std::this_thread::get_id();
    });
  };
  team.open([&] {
    for (int time = 0; time < 2; ++time) {
      round(true);
      EXPECT_NE(ran_on[1], first);
    }
    round(false);
    EXPECT_EQ(ran_on[1], first);
  });
  team.open([&] { round(false); });
  EXPECT_EQ(ran_on, std::vector(2, first));
}

TEST(Team, PiecesCoverEverythingOnce) {
  constexpr int kThreads = 3;
  for (const std::int64_t n : {0, 1, 5, 1000}) {
    std::vector<int> done(static_cast<std::size_t>(n));
    cpu::parallel_pieces(kThreads, n, [&](std::int64_t begin, std::int64_t end) {
      ASSERT_LT(begin, end);
      for (std::int64_t i = begin; i < end; ++i) ++done[static_cast<std::size_t>(i)];
    });
    EXPECT_EQ(done, std::vector(static_cast<std::size_t>(n), 1));
  }
}

}  // namespace
}  // namespace winnow::testing
