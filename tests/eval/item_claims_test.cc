// Items claimed by one process each, and processes that die.
#include "eval/item_claims.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "support/scratch.h"

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
