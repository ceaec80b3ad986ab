#include "tokenizer/token_json.h"

#include <limits>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

constexpr std::size_t kMaxDepth = 64;

// nlohmann's SAX events into a TokenJson.
class Reader {
 public:
  using Json = nlohmann::json;

  Reader(TokenJsonLayout layout, const std::string& source) : layout_(layout), source_(source) {}

  TokenJson take() { return std::move(result_); }

  bool null() { return value(nullptr); }
  bool boolean(bool v) { return value(v); }
  bool number_integer(Json::number_integer_t v) { return value(v); }
  bool number_float(Json::number_float_t v, const std::string& /*text*/) { return value(v); }
  bool binary(Json::binary_t& /*bytes*/) { return true; }  // JSON text has none

  bool number_unsigned(Json::number_unsigned_t v) {
    if (place_ != Place::kVocab) return value(v);
    if (v > static_cast<std::uint64_t>(std::numeric_limits<TokenId>::max())) bad_id();
    result_.vocab.emplace_back(std::move(key_), static_cast<TokenId>(v));
    return true;
  }

  bool string(std::string& v) {
    switch (place_) {
      case Place::kMerges: add_rule(v); break;
      case Place::kRule: rule_.push_back(std::move(v)); break;
      default: return value(std::move(v));
    }
    return true;
  }

  bool key(std::string& v) {
    key_ = std::move(v);
    if (place_ == Place::kRest && open_.back()->contains(key_)) {
      fail(ErrorCode::kBadFormat, "{}: the key {} appears twice in one object", source_, printable(key_));
    }
    return true;
  }

  bool start_object(std::size_t /*size*/) {
    if (place_ != Place::kRest) bad_value();
    if (is_vocab()) {
      result_.has_vocab = true;
      place_ = Place::kVocab;
      return true;
    }
    return open(Json::object());
  }

  bool end_object() {
    if (place_ == Place::kVocab) {
      place_ = Place::kRest;
    } else {
      open_.pop_back();
    }
    return true;
  }

  bool start_array(std::size_t /*size*/) {
    if (place_ == Place::kMerges) {
      place_ = Place::kRule;
      return true;
    }
    if (place_ != Place::kRest) bad_value();
    if (in_model() && key_ == "merges") {
      place_ = Place::kMerges;
      return true;
    }
    return open(Json::array());
  }

  bool end_array() {
    switch (place_) {
      case Place::kRule:
        if (rule_.size() != 2) bad_value();
        result_.merges.emplace_back(std::move(rule_[0]), std::move(rule_[1]));
        rule_.clear();
        place_ = Place::kMerges;
        break;
      case Place::kMerges: place_ = Place::kRest; break;
      default: open_.pop_back();
    }
    return true;
  }

  bool parse_error(std::size_t /*position*/, const std::string& /*token*/, const Json::exception& error) {
    fail(ErrorCode::kBadFormat, "{}: bad JSON: {}", source_, printable(error.what(), 300));
  }

 private:
  enum class Place { kRest, kVocab, kMerges, kRule };

  // Directly inside of the object at the key "model".
  bool in_model() const {
    return layout_ == TokenJsonLayout::kTokenizerJson && open_.size() == 2 && model_ == open_.back();
  }
  bool is_vocab() const {
    return layout_ == TokenJsonLayout::kVocabJson ? open_.empty() : in_model() && key_ == "vocab";
  }

  bool value(Json v) {
    if (place_ != Place::kRest) bad_value();
    add(std::move(v));
    return true;
  }

  Json* add(Json v) {
    if (open_.empty()) {
      result_.rest = std::move(v);
      return &result_.rest;
    }
    Json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(v));
    parent.push_back(std::move(v));
    return &parent.back();
  }

  bool open(Json container) {
    if (open_.size() == kMaxDepth) {
      fail(ErrorCode::kBadFormat, "{}: JSON is nested more than {} levels deep", source_, kMaxDepth);
    }
    const bool is_model = open_.size() == 1 && key_ == "model" && open_.back()->is_object();
    open_.push_back(add(std::move(container)));
    if (is_model) model_ = open_.back();
    return true;
  }

  void add_rule(const std::string& rule) {
    const std::size_t space = rule.find(' ');
    if (space == std::string::npos || rule.find(' ', space + 1) != std::string::npos) bad_value();
    result_.merges.emplace_back(rule.substr(0, space), rule.substr(space + 1));
  }

  [[noreturn]] void bad_id() const {
    fail(ErrorCode::kBadFormat, "{}: the id of the token '{}' is no token id", source_, printable(key_));
  }
  [[noreturn]] void bad_value() const {
    if (place_ == Place::kVocab) bad_id();
    fail(ErrorCode::kBadFormat, "{}: model.merges[{}] is no pair of tokens", source_, result_.merges.size());
  }

  TokenJsonLayout layout_;
  const std::string& source_;
  TokenJson result_;
  Place place_ = Place::kRest;
  std::vector<Json*>
      open_;  // containers of `rest` being read; a parent does not grow while its child is open
  Json* model_ = nullptr;
  std::string key_;
  std::vector<std::string> rule_;
};

}  // namespace

TokenJson read_token_json(std::string_view text, TokenJsonLayout layout, const std::string& source) {
  Reader reader(layout, source);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  return reader.take();
}

}  // namespace winnow
