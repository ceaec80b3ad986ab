#include "backends/cuda/choice_file.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/error.h"

namespace winnow::cuda {
namespace {

using nlohmann::json;

constexpr int kVersion = 2;  // 1: keys stood for other numbers of rows

std::filesystem::path choices_path() {
  const auto folder = [](const char* name) -> std::filesystem::path {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  std::filesystem::path cache = folder("XDG_CACHE_HOME");
  if (cache.empty() && !folder("HOME").empty()) cache = folder("HOME") / ".cache";
  return cache.empty() ? cache : cache / "winnow" / "cuda_algorithms.json";
}

}  // namespace

std::int64_t choice_rows(std::int64_t rows) {
  const auto step = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(rows))) / 16);
  return (rows + step - 1) / step * step;
}

std::int64_t most_choice_rows(std::int64_t rows) {
  constexpr std::int64_t kMany = 4096;
  return rows > kMany ? rows : choice_rows(rows);
}

StoredChoices read_choices() {
  std::map<std::string, std::vector<std::uint64_t>> choices;
  std::ifstream file(choices_path());
  const json all = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!all.is_object() || all.value("version", json()) != kVersion) return choices;
  const auto found = all.find("algorithms");
  if (found == all.end() || !found->is_object()) return choices;
  for (const auto& [key, words] : found->items()) {
    if (!words.is_array()) continue;
    std::vector<std::uint64_t> numbers;
    for (const json& word : words) {
      if (word.is_number_unsigned()) numbers.push_back(word.get<std::uint64_t>());
    }
    if (numbers.size() == words.size()) choices.emplace(key, std::move(numbers));
  }
  return choices;
}

// Read again first: another process may have added its own since.
void add_choice(const std::string& key, const std::vector<std::uint64_t>& words) {
  const std::filesystem::path path = choices_path();
  if (path.empty()) return;
  json algorithms = json::object();
  for (const auto& [known, numbers] : read_choices()) algorithms[known] = numbers;
  algorithms[key] = words;
  try {
    std::error_code ignored;  // the write says what is wrong
    std::filesystem::create_directories(path.parent_path(), ignored);
    write_file_atomically(path.string(),
                          json{{"version", kVersion}, {"algorithms", algorithms}}.dump(1) + "\n");
  } catch (const Error&) {
    // Measured again by every process: costs time, never the run.
  }
}

}  // namespace winnow::cuda
