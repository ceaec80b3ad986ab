// What the tests of the file formats share.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace winnow {

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// The message of the Error that `action` must throw, with its code.
template <class Action>
void expect_error(ErrorCode code, std::string_view message_part, const Action& action) {
  try {
    action();
    FAIL() << "no Error was thrown; expected one with: " << message_part;
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find(message_part), std::string_view::npos)
        << "message: " << error.what() << "\nexpected part: " << message_part;
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
  }
}

// A folder of the test's own, removed with it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "winnow_test_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + pattern);
    path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string file(std::string_view name) const { return (path_ / name).string(); }
  std::string write(std::string_view name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return file(name);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string golden(std::string_view name) {
  return std::string(WINNOW_TEST_DATA "/formats/") + std::string(name);
}

// Element [r, c] of the weights in the golden files (scripts/make_format_golden.py has the same formula).
inline float golden_value(int seed, std::int64_t r, std::int64_t c) {
  return static_cast<float>((r * 7 + c * 3 + seed * 11) % 251 - 125) / 8.0f;
}

inline std::vector<float> golden_matrix(int seed, std::int64_t rows, std::int64_t cols) {
  std::vector<float> result;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) result.push_back(golden_value(seed, r, c));
  }
  return result;
}

}  // namespace winnow
