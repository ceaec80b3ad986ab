#include "formats/gguf_split.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <map>
#include <optional>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

// What "stem-00002-of-00003.gguf" says; numbers from 1.
struct PartName {
  std::string stem;
  std::int64_t number, count;

  std::string of(std::int64_t other) const {
    return fmt::format("{}-{:05}-of-{:05}.gguf", stem, other, count);
  }
};

std::optional<std::int64_t> five_digits(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1) return std::nullopt;
  return value;
}

std::optional<PartName> parse_name(const std::string& path) {
  constexpr std::string_view kForm = "-00001-of-00001.gguf";
  if (path.size() < kForm.size()) return std::nullopt;
  const std::size_t begin = path.size() - kForm.size();
  const std::string_view tail = std::string_view(path).substr(begin);
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf") return std::nullopt;
  const auto number = five_digits(tail.substr(1, 5)), count = five_digits(tail.substr(10, 5));
  if (!number || !count || *number > *count) return std::nullopt;
  return PartName{path.substr(0, begin), *number, *count};
}

std::int64_t split_count(const GgufFile& file) { return file.find_integer("split.count").value_or(1); }

void expect_key(const GgufFile& part, const char* key, std::int64_t expected) {
  const std::int64_t found = part.integer(key);
  if (found != expected) {
    fail(ErrorCode::kBadFormat, "{}: {} is {}, expected {}: it is no part of this model", part.path(), key,
         found, expected);
  }
}

// Only the first part needs to say what model it is; the others may.
void expect_same_text(const GgufFile& part, const GgufFile& first, const char* key) {
  const auto found = part.find_string(key), expected = first.find_string(key);
  if (found && found != expected) {
    fail(ErrorCode::kBadFormat, "{}: {} is {}, but {} in {}: it is a part of another model", part.path(), key,
         printable(*found), printable(expected.value_or("missing")), first.path());
  }
}

void check_tensors(const std::vector<GgufFile>& parts) {
  std::map<std::string_view, const GgufFile*> seen;
  for (const GgufFile& part : parts) {
    for (const GgufTensor& tensor : part.tensors()) {
      const auto [place, is_new] = seen.emplace(tensor.name, &part);
      if (!is_new) {
        fail(ErrorCode::kBadFormat, "{}: tensor {} is in {} as well: they are parts of different models",
             part.path(), printable(tensor.name), place->second->path());
      }
    }
  }
  const std::int64_t expected = parts.front().integer("split.tensors.count");
  if (static_cast<std::int64_t>(seen.size()) != expected) {
    fail(ErrorCode::kBadFormat, "{}: split.tensors.count is {}, but its {} parts hold {} tensors",
         parts.front().path(), expected, parts.size(), seen.size());
  }
}

}  // namespace

std::vector<GgufFile> open_gguf_parts(const std::string& path) {
  std::vector<GgufFile> parts;
  GgufFile opened(path);
  const std::int64_t count = split_count(opened);
  if (count <= 1) {
    parts.push_back(std::move(opened));
    return parts;
  }
  const std::optional<PartName> name = parse_name(path);
  if (!name || name->count != count) {
    fail(ErrorCode::kBadFormat,
         "{}: split.count is {}, but the name does not end in -00001-of-{:05}.gguf or another of these "
         "numbers; "
         "the other parts are found by their names",
         path, count, count);
  }
  for (std::int64_t number = 1; number <= count; ++number) {
    const std::string part_path = name->of(number);
    std::error_code error;
    if (!std::filesystem::exists(part_path, error)) {
      fail(ErrorCode::kIo, "{}: part {} of {} is missing", part_path, number, count);
    }
    parts.emplace_back(part_path);
    expect_key(parts.back(), "split.no", number - 1);
    expect_key(parts.back(), "split.count", count);
    if (parts.back().has("split.tensors.count")) {
      expect_key(parts.back(), "split.tensors.count", parts.front().integer("split.tensors.count"));
    }
    expect_same_text(parts.back(), parts.front(), "general.architecture");
    expect_same_text(parts.back(), parts.front(), "general.name");
  }
  check_tensors(parts);
  return parts;
}

std::string first_gguf_part(const std::string& path) {
  const std::optional<PartName> name = parse_name(path);
  return name ? name->of(1) : path;
}

}  // namespace winnow
