#include "server/bearer_key.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "core/error.h"
#include "support/scratch.h"

namespace winnow {
namespace {

TEST(BearerKey, Matches) {
  EXPECT_TRUE(key_matches("Bearer secret", "secret"));
  EXPECT_TRUE(key_matches("bearer secret", "secret"));
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer secre", "Bearer secretx", "Bearer secrex",
                            "Basic secret", "secret", "Bearer  secret", "Bearer secretsecret"})
    EXPECT_FALSE(key_matches(wrong, "secret")) << wrong;
  EXPECT_FALSE(key_matches("Bearer ", ""));
  EXPECT_FALSE(key_matches("", ""));
}

TEST(BearerKey, Read) {
  const Scratch scratch;
  EXPECT_EQ(read_bearer_key(scratch.write("key", "secret\n"), "NO_SUCH_VARIABLE"), "secret");
  EXPECT_EQ(read_bearer_key("", "NO_SUCH_VARIABLE"), "");
  EXPECT_THROW(read_bearer_key(scratch.write("empty", "\n"), "NO_SUCH_VARIABLE"), Error);
  EXPECT_THROW(read_bearer_key(scratch.write("two", "a b\n"), "NO_SUCH_VARIABLE"), Error);
  EXPECT_THROW(read_bearer_key(scratch.file("missing"), "NO_SUCH_VARIABLE"), Error);
  setenv("WINNOW_TEST_KEY", "from-environment", 1);
  EXPECT_EQ(read_bearer_key("", "WINNOW_TEST_KEY"), "from-environment");
  unsetenv("WINNOW_TEST_KEY");
}

TEST(BearerKey, Loopback) {
  for (const char* local : {"localhost", "127.0.0.1", "127.1.2.3", "::1"})
    EXPECT_TRUE(is_loopback(local)) << local;
  for (const char* open : {"0.0.0.0", "::", "192.168.1.1", "127.example.com", "", "example.com"})
    EXPECT_FALSE(is_loopback(open)) << open;
  EXPECT_TRUE(is_local_host_header("localhost:8080"));
  EXPECT_TRUE(is_local_host_header("[::1]:8080"));
  EXPECT_FALSE(is_local_host_header("evil.example:8080"));
  EXPECT_FALSE(is_local_host_header(""));
}

}  // namespace
}  // namespace winnow
