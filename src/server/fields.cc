#include "server/fields.h"

#include <cmath>
#include <utility>

#include "core/byte_reader.h"
#include "server/api_error.h"

namespace winnow {

using nlohmann::json;

std::string described(const json& value) {
  if (value.is_structured() || value.is_string())
    return value.is_object() ? "an object" : value.is_array() ? "a list" : "text";
  return value.dump();
}

Fields::Fields(const json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) bad_field(path_, "must be an object, not {}", described(object));
}

const json* Fields::value(const std::string& key) {
  known_.insert(key);
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::string> Fields::text(const std::string& key) {
  const json* found = value(key);
  if (found == nullptr) return std::nullopt;
  if (!found->is_string()) bad_field(name(key), "must be text, not {}", described(*found));
  return found->get<std::string>();
}

std::optional<bool> Fields::flag(const std::string& key) {
  const json* found = value(key);
  if (found == nullptr) return std::nullopt;
  if (!found->is_boolean()) bad_field(name(key), "must be true or false, not {}", described(*found));
  return found->get<bool>();
}

std::optional<std::int64_t> Fields::integer(const std::string& key, std::int64_t low, std::int64_t high) {
  const json* found = value(key);
  if (found == nullptr) return std::nullopt;
  if (!found->is_number_integer()) bad_field(name(key), "must be an integer, not {}", described(*found));
  const bool above =
      found->is_number_unsigned() &&
      found->get<std::uint64_t>() > static_cast<std::uint64_t>(std::max<std::int64_t>(high, 0));
  if (above || found->get<std::int64_t>() < low || found->get<std::int64_t>() > high)
    bad_field(name(key), "is {}, must be {} to {}", found->dump(), low, high);
  return found->get<std::int64_t>();
}

std::optional<double> Fields::number(const std::string& key, double low, double high) {
  const json* found = value(key);
  if (found == nullptr) return std::nullopt;
  if (!found->is_number()) bad_field(name(key), "must be a number, not {}", described(*found));
  const auto number = found->get<double>();
  if (!std::isfinite(number) || number < low || number > high)
    bad_field(name(key), "is {}, must be {} to {}", found->dump(), low, high);
  return number;
}

void Fields::only(const std::string& key, const json& allowed, const std::string& why) {
  const json* found = value(key);
  if (found != nullptr && *found != allowed) bad_field(name(key), "{}", why);
}

void Fields::done() const {
  for (const auto& [key, unused] : object_.items()) {
    if (!known_.contains(key)) bad_field(name(printable(key)), "is no field that this server knows");
  }
}

}  // namespace winnow
