// JSON from untrusted files: bounded in size and depth, strict about duplicate keys.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace winnow {

// The object `text` holds; `file` names it in messages. Throws Error(kBadFormat) for anything else: bad JSON,
// a top level that is no object, a key that appears twice in one object (it would silently win), nesting over
// 64 levels, more than `max_bytes`.
nlohmann::json parse_json_object(std::string_view text, const std::string& file, std::size_t max_bytes);

}  // namespace winnow
