// Items claimed by one process each, and processes that die.
#include "eval/item_claims.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "core/error.h"
#include "support/scratch.h"

// The system's, unless a test has a file system without locks.
static bool no_locks = false;
extern "C" int flock(int file, int operation) {
  if (!no_locks) return static_cast<int>(syscall(SYS_flock, file, operation));
  errno = ENOLCK;
  return -1;
}

namespace winnow {
namespace {

class ItemClaimsTest : public testing::Test {
 protected:
  RankOfLaunch rank(int number, int size) const { return {number, size, launch_}; }
  pid_t start(const std::function<void()>& body) const {
    const pid_t process = fork();
    if (process == 0) {
      body();
      _exit(0);
    }
    return process;
  }

  Scratch scratch_;
  std::string prefix_ = scratch_.file("out.json.partial");
  std::string launch_ = "launch7";
};

TEST_F(ItemClaimsTest, AnItemGoesToOneRank) {
  ItemClaims first(prefix_, rank(0, 2)), second(prefix_, rank(1, 2));
  EXPECT_TRUE(first.claim("0.0"));
  EXPECT_FALSE(second.claim("0.0"));
  EXPECT_TRUE(second.claim("0.1"));
  EXPECT_FALSE(first.claim("0.1"));
  EXPECT_TRUE(first.claim("0.10"));
  second.finish();
  EXPECT_EQ(first.wait_for_others(), std::vector<int>{});
  first.remove();
  EXPECT_FALSE(std::filesystem::exists(prefix_ + ".claims"));
}

TEST_F(ItemClaimsTest, ARankThatDiesIsNamed) {
  ItemClaims self(prefix_, rank(0, 3));
  const pid_t killed = start([&] {
    ItemClaims other(prefix_, rank(1, 3));
    other.claim("0.0");
    raise(SIGKILL);
  });
  const pid_t finished = start([&] {
    ItemClaims other(prefix_, rank(2, 3));
    other.claim("0.1");
    other.finish();
  });
  EXPECT_EQ(self.wait_for_others(), std::vector<int>{1});
  EXPECT_FALSE(self.claim("0.0"));  // its items are known to be begun
  for (const pid_t process : {killed, finished}) waitpid(process, nullptr, 0);
}

TEST_F(ItemClaimsTest, OthersSeeWhichRanksAreAtWork) {
  EXPECT_FALSE(ItemClaims::at_work(prefix_, 0));
  EXPECT_FALSE(std::filesystem::exists(prefix_ + ".rank0"));  // asking leaves nothing behind
  ItemClaims self(prefix_, rank(0, 3));
  EXPECT_TRUE(ItemClaims::at_work(prefix_, 0));
  EXPECT_FALSE(ItemClaims::at_work(prefix_, 1));
  EXPECT_TRUE(self.ended(1));  // it has not come
  {
    ItemClaims other(prefix_, rank(1, 3));
    EXPECT_FALSE(self.ended(1));
    other.finish();
    EXPECT_TRUE(self.ended(1));
    EXPECT_TRUE(ItemClaims::at_work(prefix_, 1));
  }
  EXPECT_FALSE(ItemClaims::at_work(prefix_, 1));
}

TEST_F(ItemClaimsTest, WaitingEndsWhenCancelled) {
  ItemClaims self(prefix_, rank(0, 2)), working(prefix_, rank(1, 2));
  int asked = 0;
  EXPECT_EQ(self.wait_for_others([&] { return ++asked > 2; }), std::vector<int>{});
  EXPECT_GT(asked, 2);
}

TEST_F(ItemClaimsTest, TwoEvaluationsDoNotShareAnOutput) {
  const ItemClaims first(prefix_, rank(0, 1));
  try {
    const ItemClaims second(prefix_, rank(0, 1));
    ADD_FAILURE() << "began beside the first";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("another evaluation"), std::string::npos) << error.what();
  }
}

TEST_F(ItemClaimsTest, AFileSystemWithoutLocksIsAnError) {
  no_locks = true;
  try {
    const ItemClaims claims(prefix_, rank(0, 1));
    ADD_FAILURE() << "began without locks";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find("cannot lock"), std::string::npos) << error.what();
  }
  no_locks = false;
}

// As in a container, where every run's processes have the same ids.
TEST_F(ItemClaimsTest, AnEarlierLaunchOfTheSameNameClaimsNothing) {
  {
    ItemClaims earlier(prefix_, rank(0, 2));
    EXPECT_TRUE(earlier.claim("0.0"));
  }
  const pid_t other = start([&] {
    ItemClaims claims(prefix_, rank(1, 2));
    if (claims.claim("0.0")) claims.finish();
  });
  ::usleep(200000);  // for the other rank to be the first
  ItemClaims self(prefix_, rank(0, 2));
  EXPECT_EQ(self.wait_for_others(), std::vector<int>{});
  EXPECT_FALSE(self.claim("0.0"));  // the other rank's
  waitpid(other, nullptr, 0);
}

TEST_F(ItemClaimsTest, AnEarlierLaunchClaimsNothing) {
  {
    ItemClaims earlier(prefix_, {0, 1, "launch6"});
    EXPECT_TRUE(earlier.claim("0.0"));
  }
  ItemClaims now(prefix_, rank(0, 1));
  EXPECT_TRUE(now.claim("0.0"));
}

}  // namespace
}  // namespace winnow
