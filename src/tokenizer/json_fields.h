// Typed access to fields of a JSON object; every fault is Error(kBadFormat) naming the file and the key.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "tokenizer/tokenizer.h"

namespace winnow {

// A JSON value and the words that lead to it: "tokenizer.json: model.vocab".
class JsonField {
 public:
  JsonField(const nlohmann::json& value, std::string where) : value_(&value), where_(std::move(where)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& where() const { return where_; }
  bool is_null() const { return value_->is_null(); }

  // A missing key is null.
  JsonField operator[](const char* key) const {
    static const nlohmann::json null;
    if (!is_null() && !value_->is_object()) fail(ErrorCode::kBadFormat, "{} is no object", where_);
    const std::string where = where_ + (where_.ends_with(": ") ? "" : ".") + key;
    if (is_null()) return {null, where};
    const auto found = value_->find(key);
    return {found == value_->end() ? null : *found, where};
  }
  JsonField at(std::size_t i) const { return {(*value_)[i], where_ + "[" + std::to_string(i) + "]"}; }

  std::size_t array_size() const {
    if (!value_->is_array()) fail(ErrorCode::kBadFormat, "{} is no array", where_);
    return value_->size();
  }
  const std::string& string() const {
    if (!value_->is_string()) fail(ErrorCode::kBadFormat, "{} is no string", where_);
    return value_->get_ref<const std::string&>();
  }
  std::string string_or(const char* other) const { return is_null() ? other : string(); }
  bool boolean_or(bool other) const {
    if (is_null()) return other;
    if (!value_->is_boolean()) fail(ErrorCode::kBadFormat, "{} is neither true nor false", where_);
    return value_->get<bool>();
  }
  TokenId token_id() const {
    constexpr std::uint64_t kMax = std::numeric_limits<TokenId>::max();
    if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() > kMax) {
      fail(ErrorCode::kBadFormat, "{} is no token id", where_);
    }
    return static_cast<TokenId>(value_->get<std::uint64_t>());
  }

 private:
  const nlohmann::json* value_;
  std::string where_;
};

}  // namespace winnow
