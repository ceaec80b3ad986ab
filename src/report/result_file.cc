#include "report/result_file.h"

#include <limits>

#include "core/error.h"
#include "formats/json_text.h"

namespace winnow {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxFileBytes = 1 << 30;

bool has_list(const json& content, const char* key) {
  return content.contains(key) && content[key].is_array();
}

ResultKind kind_of(const std::string& name, const json& content) {
  if (has_list(content, "frontier")) return ResultKind::kFrontier;
  if (has_list(content, "sweep")) return ResultKind::kSparsity;
  if (has_list(content, "results")) {
    const json& results = content["results"];
    const bool tasks = !results.empty() && results.front().is_object() && results.front().contains("task");
    return tasks ? ResultKind::kEval : ResultKind::kProfile;
  }
  if (content.contains("winnow") && content["winnow"].is_object())
    return ResultKind::kAnswer;  // the server's
  if (has_list(content, "stages") && content.contains("prompt_tokens")) return ResultKind::kAnswer;
  if (content.contains("version") && (content.contains("tokens") || content.contains("attention")))
    return ResultKind::kPolicy;
  fail(ErrorCode::kBadFormat,
       "{}: is no result of winnow profile, sparsity, eval, calibrate, run --json or serve, and no policy",
       name);
}

}  // namespace

ResultFile read_result(const std::string& name, std::string_view text) {
  json content = parse_json_object(text, name, kMaxFileBytes);
  const ResultKind kind = kind_of(name, content);
  return {name, kind, std::move(content)};
}

double number_of(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_number())
    return std::numeric_limits<double>::quiet_NaN();
  return object[key].get<double>();
}

std::string text_of(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return "";
  return object[key].get<std::string>();
}

const json& list_of(const json& object, const char* key) {
  static const json empty = json::array();
  return object.is_object() && has_list(object, key) ? object[key] : empty;
}

const json& object_of(const json& object, const char* key) {
  static const json empty = json::object();
  return object.is_object() && object.contains(key) && object[key].is_object() ? object[key] : empty;
}

std::vector<double> numbers_of(const json& object, const char* key) {
  std::vector<double> result;
  for (const json& value : list_of(object, key))
    result.push_back(value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN());
  return result;
}

std::string origin_text(const json& content) {
  const json& model = object_of(content, "model");
  std::string text = text_of(model, "name");
  if (model.value("random", json(false)) == true) text += " (random weights)";
  const auto add = [&](const std::string& part) {
    if (!part.empty()) text += (text.empty() ? "" : ", ") + part;
  };
  add(text_of(content, "backend"));
  add(text_of(object_of(content, "machine"), "cpu"));
  add(text_of(content, "winnow").empty() ? "" : "winnow " + text_of(content, "winnow"));
  add(text_of(content, "date").substr(0, 10));
  return text;
}

}  // namespace winnow
