#include "server/policy_book.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>

#include "core/byte_reader.h"
#include "core/mapped_file.h"
#include "formats/json_text.h"
#include "runtime/kv_choice.h"
#include "server/api_error.h"
#include "sparsity/policy_warnings.h"

namespace winnow {
namespace {

using nlohmann::json;

bool is_preset(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  if (name != "dense" && name != "keep09" && name != "keep08" && name != "keep07") return false;
  if (colon == std::string_view::npos) return true;
  // Scorers that need no file.
  const std::string_view scorer = text.substr(colon + 1);
  return scorer == "attention" || scorer == "recency" || scorer == "random" || scorer == "norm";
}

bool is_selector(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view name = text.substr(0, equals);
  bool known = false;
  for (const SelectorKind kind :
       {SelectorKind::kDense, SelectorKind::kExactMass, SelectorKind::kThreshold, SelectorKind::kAntidiagonal,
        SelectorKind::kPooled, SelectorKind::kVerticalSlash, SelectorKind::kLocal})
    known = known || name == selector_name(kind);
  if (!known || equals == std::string_view::npos) return known;
  return text.find_first_not_of("0123456789.e-", equals + 1) == std::string_view::npos;
}

// A text that parse_policy() reads without opening a file that the client names ("auto" is a file of winnow's
// own).
bool names_no_file(std::string_view text) {
  if (text == "auto" || is_preset(text) || is_selector(text)) return true;
  const std::size_t plus = text.find('+');
  return plus != std::string_view::npos && is_preset(text.substr(0, plus)) &&
         is_selector(text.substr(plus + 1));
}

}  // namespace

PolicyBook::PolicyBook(const ModelFacts& model, const std::string& standard, KvType kv)
    : model_(model), kv_(kv), standard_(parse_policy(standard, model, kv)) {}

void PolicyBook::add_folder(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".json") paths.push_back(entry.path().string());
  }
  if (error) fail(ErrorCode::kIo, "{}: cannot read the folder of policies: {}", folder, error.message());
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    const std::string name = std::filesystem::path(path).stem().string();
    const json content = parse_json_object(MappedFile(path).text(), path, 1 << 20);
    Policy policy = policy_from_json(content, path);
    policy.name = name;
    try {
      check_policy(policy, model_, path);
      check_policy_fits_caches(policy, kv_);
    } catch (const Error& reason) {
      spdlog::debug("policy {} is not for this model and these caches: {}", name, reason.what());
      continue;
    }
    named_[name] = std::move(policy);
  }
}

Policy PolicyBook::find(const std::string& text) const {
  if (text == "default") return standard_;
  if (const auto found = named_.find(text); found != named_.end()) return found->second;
  if (names_no_file(text)) {
    try {
      return parse_policy(text, model_, kv_);
    } catch (const Error& error) {
      throw ApiError(400, "winnow.policy", "unknown_policy", fmt::format("winnow.policy: {}", error.what()));
    }
  }
  std::string names;
  for (const auto& [name, policy] : named_) names += ", " + name;
  throw ApiError(
      400, "winnow.policy", "unknown_policy",
      fmt::format("winnow.policy: \"{}\" is no policy of this server; it has default, auto, dense, keep09, "
                  "keep08, keep07{}, and selectors such as pooled=0.95",
                  printable(text), names));
}

Policy PolicyBook::fastest_within(double max_kl, std::int64_t prompt_tokens) const {
  const Policy* best = nullptr;
  bool elsewhere = false;  // measured, at other lengths
  std::string seen;
  for (const auto& [name, policy] : named_) {
    const auto kl = measured_number(policy, "kl"), speedup = measured_number(policy, "speedup");
    if (!kl || !speedup) continue;
    if (!measured_near(policy, prompt_tokens)) {
      elsewhere = true;
      continue;
    }
    seen += fmt::format("{}{} (KL {:.4g}, {:.2f}x)", seen.empty() ? "" : ", ", name, *kl, *speedup);
    if (*kl > max_kl) continue;
    if (best == nullptr || *speedup > *measured_number(*best, "speedup")) best = &policy;
  }
  if (best != nullptr) return *best;
  if (seen.empty() && elsewhere) return parse_policy("dense", model_);
  throw ApiError(
      400, "winnow.max_kl", "no_policy_within_budget",
      fmt::format("winnow.max_kl: no calibrated policy costs at most {}; there {}", max_kl,
                  seen.empty() ? "is none for this model: make one with winnow calibrate" : "are: " + seen));
}

json PolicyBook::list() const {
  json result = json::array();
  for (const auto& [name, policy] : named_) {
    json entry = {{"name", name}};
    for (const char* key : {"kl", "dce", "niah", "speedup", "density", "avgtok", "length"}) {
      if (const auto value = measured_number(policy, key)) entry[key] = *value;
    }
    result.push_back(std::move(entry));
  }
  return result;
}

}  // namespace winnow
