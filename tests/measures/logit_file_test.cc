#include "measures/logit_file.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <vector>

#include "core/error.h"

namespace winnow {
namespace {

TEST(LogitFile, GivesBackWhatItTookInAnyOrder) {
  LogitFile file(5, 7);
  std::vector<float> rows(35);
  std::iota(rows.begin(), rows.end(), -3.25f);
  file.write(3, std::span(rows).subspan(21, 14));
  file.write(0, std::span(rows).first(21));
  std::vector<float> back(21);
  file.read(2, back);
  EXPECT_EQ(back, std::vector<float>(rows.begin() + 14, rows.end()));
}

TEST(LogitFile, RowsNeverWrittenAreAnError) {
  const LogitFile file(2, 3);
  std::vector<float> row(3);
  EXPECT_THROW(file.read(1, row), Error);
}

TEST(LogitFile, TooLargeForTheDiskIsSaidFirst) {
  try {
    const LogitFile file(std::int64_t{1} << 40, 1 << 17);
    FAIL() << "took an exabyte";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("TMPDIR"), std::string::npos) << error.what();
  }
}

TEST(LogitFile, LeavesNoName) {
  const std::string folder = std::filesystem::temp_directory_path().string() + "/winnow-logit-file-test";
  std::filesystem::create_directories(folder);
  const char* before = std::getenv("TMPDIR");
  const std::string kept = before == nullptr ? "" : before;
  ::setenv("TMPDIR", folder.c_str(), 1);
  const LogitFile file(1, 1);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  kept.empty() ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", kept.c_str(), 1);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace winnow
