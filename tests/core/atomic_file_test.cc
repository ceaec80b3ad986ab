#include "core/atomic_file.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>

#include "support/format_testing.h"

namespace winnow {
namespace {

std::size_t files_in(const TemporaryFolder& folder) {
  const std::filesystem::directory_iterator files(folder.path());
  return static_cast<std::size_t>(std::distance(begin(files), end(files)));
}

TEST(AtomicFile, WritesAndReplaces) {
  const TemporaryFolder folder;
  write_file_atomically(folder.file("out.json"), "first");
  EXPECT_EQ(read_text(folder.file("out.json")), "first");
  write_file_atomically(folder.file("out.json"), std::string(100'000, 'x'));
  EXPECT_EQ(read_text(folder.file("out.json")), std::string(100'000, 'x'));
  write_file_atomically(folder.file("out.json"), "");
  EXPECT_EQ(read_text(folder.file("out.json")), "");
  EXPECT_EQ(files_in(folder), 1u) << "no temporary file stays";
}

TEST(AtomicFile, ModeFollowsTheUmask) {
  const TemporaryFolder folder;
  const mode_t before = ::umask(027);
  write_file_atomically(folder.file("out"), "x");
  ::umask(before);
  struct stat status = {};
  ASSERT_EQ(::stat(folder.file("out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFile, MissingFolderIsAnError) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kIo, "no/out.json: cannot create a file in its folder: No such file",
               [&] { write_file_atomically(folder.file("no/out.json"), "x"); });
  expect_error(ErrorCode::kIo, "no/out.json: cannot create",
               [&] { check_writable(folder.file("no/out.json")); });
  expect_error(ErrorCode::kIo, "is a folder", [&] { check_writable(folder.path().string()); });
  expect_error(ErrorCode::kIo, "is empty", [] { check_writable(""); });
  expect_error(ErrorCode::kIo, "cannot write: Not a directory",
               [&] { check_writable(folder.write("plain", "") + "/out"); });
}

TEST(AtomicFile, FailureLeavesTheOldFileAndNothingElse) {
  const TemporaryFolder folder;
  const std::string path = folder.write("out", "old");
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_error(ErrorCode::kIo, "out: cannot write: File too large",
               [&] { write_file_atomically(path, std::string(5000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(files_in(folder), 1u);
}

TEST(AtomicFile, CheckWritableLeavesNothing) {
  const TemporaryFolder folder;
  check_writable(folder.file("new"));
  EXPECT_EQ(files_in(folder), 0u);
  check_writable(folder.write("old", "content"));
  EXPECT_EQ(read_text(folder.file("old")), "content");
}

TEST(AtomicFile, FollowsSymbolicLinks) {
  const TemporaryFolder folder;
  folder.write("real", "old");
  std::filesystem::create_symlink("real", folder.path() / "link");
  write_file_atomically(folder.file("link"), "new");
  EXPECT_EQ(read_text(folder.file("real")), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder.path() / "link"));
}

TEST(AtomicFile, DevicesAreWrittenNotReplaced) {
  check_writable("/dev/null");
  write_file_atomically("/dev/null", "x");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

}  // namespace
}  // namespace winnow
