// together(): work reaches every thread, exceptions come back, and a loaded or nested region does no harm.
#include "backends/cpu/team.h"

#include <atomic>
#include <stdexcept>
#include <vector>

#include "backends/cpu/parallel.h"
#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

TEST(Team, EveryThreadDoesEveryRound) {
  constexpr int kThreads = 3, kRounds = 500;
  std::vector<int> rounds(kThreads);
  cpu::Team::open(kThreads, [&] {
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
    int after = 0;
    cpu::Team::open(2, [&] {
      EXPECT_THROW(cpu::parallel(2,
                                 [&](int thread) {
                                   if (thread == thrower) throw std::runtime_error("work");
                                 }),
                   std::runtime_error);
      cpu::parallel(2, [&](int thread) { after += thread; });
    });
    EXPECT_EQ(after, 1);
  }
  EXPECT_THROW(cpu::Team::open(2, [] { throw std::runtime_error("body"); }), std::runtime_error);
}

TEST(Team, ATeamInsideATeamIsTheSameTeam) {
  std::atomic<int> done{0};
  cpu::Team::open(2, [&] { cpu::Team::open(2, [&] { cpu::parallel(2, [&](int) { ++done; }); }); });
  EXPECT_EQ(done, 2);
}

}  // namespace
}  // namespace winnow::testing
