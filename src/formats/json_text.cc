#include "formats/json_text.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

constexpr std::size_t kMaxDepth = 64;

using Json = nlohmann::json;

// Watches the parser's events; the keys of every open object are kept, outermost first.
class StructureCheck {
 public:
  explicit StructureCheck(const std::string& file) : file_(file) {}

  bool operator()(int /*depth*/, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        if (open_.size() == kMaxDepth) {
          fail(ErrorCode::kBadFormat, "{}: JSON is nested more than {} levels deep", file_, kMaxDepth);
        }
        open_.emplace_back();
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end: open_.pop_back(); break;
      case Json::parse_event_t::key: add_key(parsed.get_ref<const std::string&>()); break;
      case Json::parse_event_t::value: break;
    }
    return true;
  }

 private:
  void add_key(const std::string& key) {
    if (!open_.back().insert(key).second) {
      fail(ErrorCode::kBadFormat, "{}: the JSON key {} appears twice in one object", file_, printable(key));
    }
  }

  const std::string& file_;
  std::vector<std::set<std::string>> open_;
};

}  // namespace

Json parse_json_object(std::string_view text, const std::string& file, std::size_t max_bytes) {
  if (text.size() > max_bytes) {
    fail(ErrorCode::kBadFormat, "{}: {} bytes of JSON; at most {} are read", file, text.size(), max_bytes);
  }
  Json result;
  try {
    StructureCheck structure(file);
    result = Json::parse(text.begin(), text.end(), std::ref(structure));
  } catch (const Json::exception& error) {
    fail(ErrorCode::kBadFormat, "{}: bad JSON: {}", file, printable(error.what(), 300));
  }
  if (!result.is_object()) fail(ErrorCode::kBadFormat, "{}: the JSON is no object", file);
  return result;
}

}  // namespace winnow
