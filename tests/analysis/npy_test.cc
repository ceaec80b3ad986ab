#include "analysis/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace winnow {
namespace {

TEST(Npy, HeaderAsNumPyWritesIt) {
  const std::string header = npy_header({2, 3});
  EXPECT_EQ(header.size(), 128u);
  EXPECT_EQ(header.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));  // 0x76 = 118 bytes follow
  EXPECT_EQ(header.substr(10, 59), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
  EXPECT_EQ(header.back(), '\n');
  EXPECT_NE(npy_header({7}).find("(7,)"), std::string::npos);
}

TEST(Npy, DataFollowsTheHeader) {
  const std::string path = (std::filesystem::temp_directory_path() / "winnow-npy-test.npy").string();
  const std::vector<float> data{1, -2, 0.5f, 3e-7f};
  write_npy(path, {4}, data);
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  ASSERT_EQ(content.size(), 128 + 16u);
  EXPECT_EQ(std::memcmp(content.data() + 128, data.data(), 16), 0);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace winnow
