// ConfigReader: typed access to a model's config, with errors that name file and key.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"

namespace winnow {

class ConfigReader {
 public:
  // `prefix` goes before the keys in messages ("rope_scaling."). Both arguments must outlive the reader.
  ConfigReader(const std::string& path, const nlohmann::json& config, std::string prefix = "")
      : path_(path), config_(config), prefix_(std::move(prefix)) {}

  // A key that is null counts as missing.
  bool has(const char* key) const {
    const auto found = config_.find(key);
    return found != config_.end() && !found->is_null();
  }
  std::string text(const char* key) const {
    if (!has(key) || !config_[key].is_string()) bad(key, "is missing or no text");
    return config_[key].get<std::string>();
  }
  std::int64_t size(const char* key, std::int64_t largest = 1 << 24) const {
    if (!has(key) || !config_[key].is_number_integer()) bad(key, "is missing or no integer");
    const auto value = config_[key].get<std::int64_t>();
    if (value < 1 || value > largest) bad(key, fmt::format("is {}, expected 1..{}", value, largest));
    return value;
  }
  double number(const char* key) const {
    if (!has(key) || !config_[key].is_number()) bad(key, "is missing or no number");
    const auto value = config_[key].get<double>();
    if (!std::isfinite(value) || value <= 0) bad(key, fmt::format("is {}, expected more than 0", value));
    return value;
  }
  double number(const char* key, double otherwise) const { return has(key) ? number(key) : otherwise; }
  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!config_[key].is_boolean()) bad(key, "is no boolean");
    return config_[key].get<bool>();
  }
  // The object at `key`; the result must not outlive this reader's config.
  ConfigReader object(const char* key) const {
    if (!has(key) || !config_[key].is_object()) bad(key, "is missing or no object");
    return {path_, config_[key], prefix_ + key + "."};
  }

  [[noreturn]] void bad(const char* key, const std::string& what) const {
    fail(ErrorCode::kBadFormat, "{}: config: {}{} {}", path_, prefix_, key, what);
  }
  [[noreturn]] void unsupported(const char* key, const std::string& why) const {
    fail(ErrorCode::kUnsupported, "{}: config: {}{} = {} is not supported: {}", path_, prefix_, key,
         config_[key].dump(), why);
  }
  const nlohmann::json& operator[](const char* key) const { return config_[key]; }
  const nlohmann::json& json() const { return config_; }
  const std::string& path() const { return path_; }

 private:
  const std::string& path_;
  const nlohmann::json& config_;
  std::string prefix_;
};

}  // namespace winnow
