// Reading one object of a policy file, with messages that name the file and the path of the key. For
// policy_json.cc and attention_json.cc only.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"
#include "sparsity/policy_names.h"

namespace winnow {

// Counts of tokens and layers stay where sums and products of them cannot overflow.
inline constexpr std::int64_t kMaxCount = std::numeric_limits<std::int32_t>::max();

// Numbers from `low` (itself excluded when `open`) to `high`.
struct Interval {
  double low, high;
  bool open;

  bool contains(double x) const { return (open ? x > low : x >= low) && x <= high; }  // false for NaN
  std::string text() const { return fmt::format("{}{}, {}]", open ? "(" : "[", low, high); }
};
inline constexpr Interval kShare{0.0, 1.0, false};
inline constexpr Interval kPositiveShare{0.0, 1.0, true};

inline std::string shown(const nlohmann::json& value) {
  return printable(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

// One object of the file; messages name the file and the path of the key. Absent keys are nullopt.
class Fields {
 public:
  using Json = nlohmann::json;
  using Keys = std::initializer_list<std::string_view>;

  // Error when `json` is no object or has a key that is not in `known`.
  Fields(const Json& json, std::string path, const std::string& origin, Keys known)
      : json_(json), path_(std::move(path)), origin_(origin) {
    if (!json.is_object()) {
      fail(ErrorCode::kBadFormat, "{}: {} is {}, expected an object", origin_,
           path_.empty() ? "the policy" : path_, shown(json));
    }
    for (const auto& [key, value] : json.items()) check_known(key, known);
  }

  const std::string& origin() const { return origin_; }
  std::string path_of(std::string_view key) const {
    return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  }
  [[noreturn]] void fail_key(std::string_view key, const std::string& what,
                             ErrorCode code = ErrorCode::kBadFormat) const {
    fail(code, "{}: {}: {}", origin_, path_of(key), what);
  }

  const Json* find(std::string_view key) const {
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }

  std::optional<std::int64_t> integer(std::string_view key, std::int64_t low,
                                      std::int64_t high = kMaxCount) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    // An unsigned number beyond int64 comes out negative, so it is compared before.
    const bool fits = value->is_number_integer() &&
                      !(value->is_number_unsigned() && value->get<std::uint64_t>() > kMaxCount) &&
                      value->get<std::int64_t>() >= low && value->get<std::int64_t>() <= high;
    if (!fits) fail_type(key, *value, fmt::format("an integer in {}..{}", low, high));
    return value->get<std::int64_t>();
  }

  std::optional<std::uint64_t> unsigned_64(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    const bool fits =
        value->is_number_unsigned() || (value->is_number_integer() && value->get<std::int64_t>() >= 0);
    if (!fits) fail_type(key, *value, "an integer of 0 or more (64 bits)");
    return value->get<std::uint64_t>();
  }

  std::optional<double> number(std::string_view key, const Interval& interval) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number() || !interval.contains(value->get<double>())) {
      fail_type(key, *value, "a number in " + interval.text());
    }
    return value->get<double>();
  }

  std::optional<bool> boolean(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) fail_type(key, *value, "true or false");
    return value->get<bool>();
  }

  std::optional<std::string> string(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) fail_type(key, *value, "a string");
    return value->get<std::string>();
  }

  template <class T>
  std::optional<T> choice(std::string_view key, std::span<const NamedValue<T>> values) const {
    const auto name = string(key);
    if (!name) return std::nullopt;
    const T* value = find_named(values, *name);
    if (value == nullptr) fail_type(key, Json(*name), "one of " + names_of(values));
    return *value;
  }

  [[noreturn]] void fail_type(std::string_view key, const Json& value, const std::string& expected) const {
    fail_key(key, fmt::format("found {}, expected {}", shown(value), expected));
  }

 private:
  void check_known(const std::string& key, Keys known) const {
    std::string names;
    for (const std::string_view name : known) {
      if (name == key) return;
      names += names.empty() ? "" : ", ";
      names += name;
    }
    fail(ErrorCode::kBadFormat, "{}: unknown key {}; known here: {}", origin_, path_of(printable(key)),
         names);
  }

  const Json& json_;
  std::string path_;
  const std::string& origin_;
};

}  // namespace winnow
