// How many threads each of a host's ranks takes.
#include "ranks/rank_threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <thread>

namespace winnow {
namespace {

class RankThreads : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv(kVariable)) before_ = value;
    ::unsetenv(kVariable);
  }
  void TearDown() override {
    if (before_) ::setenv(kVariable, before_->c_str(), 1);
  }
  static constexpr const char* kVariable = "OMP_NUM_THREADS";
  std::optional<std::string> before_;
};

TEST_F(RankThreads, WhatIsAskedForHolds) {
  EXPECT_EQ(threads_of_rank(5, 2), 5);
  EXPECT_EQ(threads_of_rank(0, 1), 0);  // alone: all
  ::setenv(kVariable, "3", 1);
  EXPECT_EQ(threads_of_rank(0, 2), 0);  // the variable's
  ::unsetenv(kVariable);
}

TEST_F(RankThreads, CoresAreDividedThatTheProcessMayUse) {
  cpu_set_t all, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof all, &all), 0);
  const int cores = CPU_COUNT(&all);
  EXPECT_EQ(threads_of_rank(0, 2), cores < 2 ? 1 : cores / 2);
  EXPECT_EQ(threads_of_rank(0, cores + 1), 1);
  int first = 0;
  while (!CPU_ISSET(first, &all)) ++first;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  std::thread bound([&] {  // as mpirun binds its processes
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(threads_of_rank(0, 2), 1);
  });
  bound.join();
}

}  // namespace
}  // namespace winnow
