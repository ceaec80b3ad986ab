// Fields: one JSON object of a request, read field by field. Every fault is an ApiError(400) that names the
// field. A field that is null counts as not given.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

namespace winnow {

class Fields {
 public:
  // `path` is what the object is called in messages; "" for the request itself. Error when it is no object.
  // `object` must outlive the reader.
  Fields(const nlohmann::json& object, std::string path);

  std::optional<std::string> text(const std::string& key);
  std::optional<bool> flag(const std::string& key);
  // Error outside [low, high], and for integers too large for one.
  std::optional<std::int64_t> integer(const std::string& key, std::int64_t low, std::int64_t high);
  std::optional<double> number(const std::string& key, double low, double high);
  // The value as it is; null pointer when it is not given.
  const nlohmann::json* value(const std::string& key);

  // Of a field that may be given, as long as it changes nothing.
  void only(const std::string& key, const nlohmann::json& allowed, const std::string& why);
  // Of a field that has no influence on an answer.
  void without_effect(const std::string& key) { known_.insert(key); }

  // After the last field was read: Error for any other.
  void done() const;

  std::string name(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

 private:
  const nlohmann::json& object_;
  std::string path_;
  std::set<std::string> known_;
};

// For messages: the type and, where it is short, the value.
std::string described(const nlohmann::json& value);

}  // namespace winnow
