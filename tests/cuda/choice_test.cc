// Which measured way is taken, for which numbers of rows, and the file that keeps it: needs no GPU.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/choice_file.h"
#include "backends/cuda/fastest.h"
#include "support/scratch.h"

namespace winnow::testing {
namespace {

TEST(CudaChoices, NumbersOfRowsShareOneUpToTheNextSixteenth) {
  for (const auto& [rows, shared] : {std::pair{1, 1},
                                     {31, 31},
                                     {32, 32},
                                     {33, 34},
                                     {1024, 1024},
                                     {1025, 1088},
                                     {1343, 1344},
                                     {1473, 1536},
                                     {2047, 2048},
                                     {4097, 4352},
                                     {32768, 32768}}) {
    EXPECT_EQ(cuda::choice_rows(rows), shared);
    EXPECT_EQ(cuda::most_choice_rows(rows), rows > 4096 ? rows : shared) << rows;
  }
}

TEST(CudaChoices, TheFastestHereOfThoseThatAreNearlySoForTheMost) {
  constexpr float kFailed = std::numeric_limits<float>::infinity();
  EXPECT_EQ(cuda::fastest_way({3, 1, 2}, {3, 1, 2}), 1U);
  EXPECT_EQ(cuda::fastest_way({1, 2, 3}, {5, 4, 4}), 1U);
  EXPECT_EQ(cuda::fastest_way({3, 1, 2}, {1.05f, 1.2f, 1}), 2U);
  EXPECT_EQ(cuda::fastest_way({3, 2, 1}, {1, 1.05f, 1.2f}), 1U);
  EXPECT_EQ(cuda::fastest_way({kFailed, 2}, {kFailed, 2}), 1U);
  EXPECT_EQ(cuda::fastest_way({2}, {2}), 0U);
}

TEST(CudaChoices, AFileOfAnotherVersionCountsAsEmpty) {
  const char* const kept = std::getenv("XDG_CACHE_HOME");
  const std::string before = kept == nullptr ? "" : kept;
  const Scratch folder;
  ::setenv("XDG_CACHE_HOME", folder.file("").c_str(), 1);
  std::filesystem::create_directories(folder.file("winnow"));
  folder.write("winnow/cuda_algorithms.json", R"({"version": 1, "algorithms": {"old": [8]}})");
  EXPECT_TRUE(cuda::read_choices().empty());
  cuda::add_choice("a", {1, 2});
  cuda::add_choice("b", {});
  const std::map<std::string, std::vector<std::uint64_t>> wanted{{"a", {1, 2}}, {"b", {}}};
  EXPECT_EQ(cuda::read_choices(), wanted);
  kept == nullptr ? ::unsetenv("XDG_CACHE_HOME") : ::setenv("XDG_CACHE_HOME", before.c_str(), 1);
}

}  // namespace
}  // namespace winnow::testing
