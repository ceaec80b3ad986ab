#include "core/data_dir.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace winnow {
namespace {

class DataDirTest : public testing::Test {
 protected:
  DataDirTest() {
    const char* before = std::getenv("WINNOW_DATA_DIR");
    had_ = before != nullptr;
    if (had_) before_ = before;
    ::unsetenv("WINNOW_DATA_DIR");
  }
  ~DataDirTest() override {
    had_ ? ::setenv("WINNOW_DATA_DIR", before_.c_str(), 1) : ::unsetenv("WINNOW_DATA_DIR");
  }

 private:
  bool had_ = false;
  std::string before_;
};

TEST_F(DataDirTest, TheBuildTreeHasTextsAndPolicies) {
  EXPECT_TRUE(std::filesystem::is_regular_file(find_data("texts/kjv.txt")));
  EXPECT_TRUE(std::filesystem::is_directory(find_data("policies")));
}

TEST_F(DataDirTest, TheVariableAloneDecides) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "winnow-data-dir-test";
  std::filesystem::create_directories(folder / "texts");
  std::ofstream(folder / "texts" / "own.txt") << "x";
  ::setenv("WINNOW_DATA_DIR", folder.c_str(), 1);
  EXPECT_EQ(find_data("texts/own.txt"), (folder / "texts" / "own.txt").string());
  try {
    find_data("texts/kjv.txt");
    FAIL() << "found elsewhere";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find(folder.string()), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("WINNOW_DATA_DIR"), std::string::npos) << error.what();
  }
  ::setenv("WINNOW_DATA_DIR", "", 1);  // empty: as if it were not set
  EXPECT_NO_THROW(find_data("texts/kjv.txt"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace winnow
