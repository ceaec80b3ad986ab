// Where the tokenizer tests find their files.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

inline std::string read_test_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string golden_path(const std::string& name) {
  return std::string(WINNOW_TEST_DATA) + "/tokenizer/" + name;
}

inline nlohmann::json read_golden(const std::string& name) {
  return nlohmann::json::parse(read_test_file(golden_path(name)));
}

// Data too large to commit: the folder WINNOW_SHARED_DATA names, or ../shared/data beside the repository; ""
// if absent.
inline std::string shared_data_path(const std::string& name) {
  const char* named = std::getenv("WINNOW_SHARED_DATA");
  const std::filesystem::path root = std::filesystem::path(WINNOW_TEST_DATA) / ".." / "..";
  const std::filesystem::path folder =
      named != nullptr ? std::filesystem::path(named) : root / ".." / "shared" / "data";
  const std::filesystem::path path = folder / name;
  return std::filesystem::exists(path) ? path.lexically_normal().string() : "";
}

inline std::string bytes_of_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

// Count and hash of ids as the golden script writes them for long texts.
inline nlohmann::json summary_of(const std::vector<TokenId>& ids) {
  std::uint64_t value = 0xCBF29CE484222325u;
  for (const TokenId id : ids) value = (value ^ static_cast<std::uint64_t>(id)) * 0x100000001B3u;
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return {{"count", ids.size()}, {"fnv1a", text}};
}

}  // namespace winnow
