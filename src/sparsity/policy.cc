#include "sparsity/policy.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "core/byte_reader.h"
#include "core/data_dir.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "formats/json_text.h"
#include "sparsity/policy_names.h"
#include "sparsity/scorer_file.h"
#include "sparsity/selector.h"

namespace winnow {
namespace {

constexpr std::size_t kMaxPolicyBytes = std::size_t{1} << 20;

// The published schedule: a stage every third layer, none among the last layers.
constexpr std::int64_t kFirstStage = 4;
constexpr std::int64_t kStageStep = 3;
constexpr std::int64_t kLayersAfterLastStage = 3;
constexpr std::int64_t kMinScheduleLayers = kFirstStage + kLayersAfterLastStage;

constexpr NamedValue<double> kSchedules[] = {{"keep09", 0.9}, {"keep08", 0.8}, {"keep07", 0.7}};
constexpr std::string_view kPresetNames = "dense, keep09, keep08, keep07";

std::string selector_names() { return names_of<SelectorKind>(kSelectors); }
std::string scorer_names() { return names_of<ScorerKind>(kScorers); }

bool is_preset(std::string_view name) {
  return name == "dense" || name == "auto" || find_named<double>(kSchedules, name) != nullptr;
}

// "cannot tell" counts as no; opening the file then says why.
bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

struct PolicyText {
  std::string base;    // preset or file
  std::string scorer;  // "" when none is named
  std::string scorer_file;
  bool has_file = false;  // "=..." is there
};

PolicyText split_at(const std::string& text, std::size_t colon) {
  PolicyText parts{text.substr(0, colon), text.substr(colon + 1), "", false};
  const std::size_t equals = parts.scorer.find('=');
  if (equals != std::string::npos) {
    parts.has_file = true;
    parts.scorer_file = parts.scorer.substr(equals + 1);
    parts.scorer.resize(equals);
  }
  return parts;
}

// A path may hold ':' itself, so only what looks like a scorer is cut off.
PolicyText split(const std::string& text) {
  for (std::size_t colon = text.rfind(':'); colon != std::string::npos;
       colon = colon == 0 ? std::string::npos : text.rfind(':', colon - 1)) {
    PolicyText parts = split_at(text, colon);
    if (is_scorer_name(parts.scorer)) return parts;
  }
  if (exists(text)) return {text, "", "", false};
  for (std::size_t colon = text.find(':'); colon != std::string::npos; colon = text.find(':', colon + 1)) {
    PolicyText parts = split_at(text, colon);
    if (is_preset(parts.base) || exists(parts.base)) return parts;
  }
  return {text, "", "", false};
}

// Presets are made for the model at hand.
void require_model(const std::string& preset, const ModelFacts& model) {
  if (model.layers > 0) return;
  fail(ErrorCode::kBadArgument, "policy {}: what it is depends on the model, and none is named", preset);
}

Policy schedule(const std::string& preset, double keep, const ModelFacts& model) {
  require_model(preset, model);
  if (model.layers < kMinScheduleLayers) {
    fail(ErrorCode::kBadArgument,
         "policy {}: its first stage is layer {} and its last at most layers - {}: it needs a model of "
         "{} layers or more, and {} has {}",
         preset, kFirstStage, kLayersAfterLastStage, kMinScheduleLayers, printable(model.name), model.layers);
  }
  Policy policy;
  for (std::int64_t layer = kFirstStage; layer <= model.layers - kLayersAfterLastStage; layer += kStageStep) {
    policy.tokens.stages.push_back({layer, keep, std::nullopt});
  }
  return policy;
}

Policy read_policy_file(const std::string& path) {
  const MappedFile file(path);
  return policy_from_json(parse_json_object(file.text(), path, kMaxPolicyBytes), path);
}

// What lies beside the policies in a folder of winnow's data and has this extension, by name.
std::vector<std::string> files_beside_policies(const std::string& folder, const char* extension) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fs::path(folder) / "policies", error)) {
    if (entry.path().extension() == extension) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// The policy file that came with winnow for this very model (its layers and shape): of several the one that
// lost least when it was measured.
Policy calibrated_policy(const ModelFacts& model) {
  require_model("auto", model);
  const auto loss = [](const Policy& policy) {
    return measured_number(policy, "kl").value_or(std::numeric_limits<double>::infinity());
  };
  for (const std::string& folder : data_folders()) {
    std::optional<Policy> best;
    for (const std::string& file : files_beside_policies(folder, ".json")) {
      Policy policy = read_policy_file(file);
      const bool made_for = !policy.shape_hash.empty() && policy.shape_hash == model.shape_hash &&
                            policy.model_layers == model.layers && !policy.measured.is_null();
      if (made_for && (!best || loss(policy) < loss(*best))) best = std::move(policy);
    }
    if (best) return *best;
  }
  fail(ErrorCode::kBadArgument,
       "policy auto: there is no calibrated policy for {} yet: make one with winnow calibrate and name "
       "its file, or give a preset: {}",
       model.name.empty() ? "this model" : printable(model.name), kPresetNames);
}

Policy preset_or_file(const std::string& base, const ModelFacts& model) {
  if (base == "dense") return {};
  if (const double* keep = find_named<double>(kSchedules, base)) return schedule(base, *keep, model);
  if (base == "auto") return calibrated_policy(model);
  if (exists(base)) return read_policy_file(base);
  fail(ErrorCode::kBadArgument,
       "policy \"{}\": this is no preset, and a file of that name does not exist; presets: {}, auto; a JSON "
       "policy file works too, and each may be followed by :SCORER[=FILE], SCORER being one of {}, and by "
       "+SELECTOR[=THRESHOLD], SELECTOR being one of {}",
       printable(base), kPresetNames, scorer_names(), selector_names());
}

// What "SELECTOR[=THRESHOLD]" means; nullopt when it begins with no selector's name.
std::optional<AttentionPolicy> selector_term(const std::string& term, const std::string& text) {
  const std::size_t equals = term.find('=');
  const SelectorKind* kind = find_named<SelectorKind>(kSelectors, term.substr(0, equals));
  if (kind == nullptr) return std::nullopt;
  AttentionPolicy policy = attention_policy(*kind);
  if (equals == std::string::npos) return policy;
  const std::string where = fmt::format("policy \"{}\"", printable(text));
  if (*kind == SelectorKind::kDense || *kind == SelectorKind::kLocal) {
    fail(ErrorCode::kBadArgument, "{}: the selector {} takes no threshold", where, selector_name(*kind));
  }
  const std::string value = term.substr(equals + 1);
  float threshold = 0;
  const char* end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, threshold);
  if (error != std::errc() || stop != end || !(threshold > 0 && threshold <= 1)) {
    fail(ErrorCode::kBadArgument, "{}: threshold \"{}\", expected a number in (0, 1]", where,
         printable(value));
  }
  policy.thresholds = {{threshold}};
  return policy;
}

struct Terms {
  std::string tokens;
  std::optional<AttentionPolicy> attention;  // none: the file's own
};

// A path may hold '+' itself, so only what begins with a selector's name is cut off.
Terms split_terms(const std::string& text) {
  const bool preset = is_preset(text);
  if (!preset) {
    if (auto attention = selector_term(text, text)) return {"dense", std::move(attention)};
  }
  const std::size_t plus = text.rfind('+');
  if (preset || plus == std::string::npos || exists(text)) return {text, std::nullopt};
  auto attention = selector_term(text.substr(plus + 1), text);
  if (!attention) return {text, std::nullopt};
  Terms terms{text.substr(0, plus), std::move(attention)};
  if (split_terms(terms.tokens).attention) {
    fail(ErrorCode::kBadArgument, "policy \"{}\": names two selectors; a policy has one", printable(text));
  }
  return terms;
}

// The table of thresholds: one for all, or a row a layer of one number or one a head.
void check_thresholds(const AttentionPolicy& attention, const ModelFacts& model, const std::string& origin) {
  if (attention.one_threshold()) return;
  const auto layers = static_cast<std::int64_t>(attention.thresholds.size());
  if (layers != model.layers) {
    fail(ErrorCode::kBadArgument, "{}: attention.thresholds has {} layers, but {} has {}", origin, layers,
         printable(model.name), model.layers);
  }
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const auto heads = static_cast<std::int64_t>(attention.thresholds[layer].size());
    if (heads == 1 || heads == model.heads || model.heads == 0) continue;
    fail(ErrorCode::kBadArgument,
         "{}: attention.thresholds[{}] has {} numbers, but {} has {} heads: give one, or one for each head",
         origin, layer, heads, printable(model.name), model.heads);
  }
}

void set_scorer(TokenPolicy& tokens, const PolicyText& parts, const std::string& text,
                const ModelFacts& model) {
  const std::string where = fmt::format("policy \"{}\"", printable(text));
  tokens = with_scorer(std::move(tokens), scorer_from_name(parts.scorer, where, ErrorCode::kBadArgument));
  if (parts.has_file && tokens.scorer != ScorerKind::kLearned) {
    fail(ErrorCode::kBadArgument, "{}: the scorer {} takes no file; only learned does", where, parts.scorer);
  }
  if (parts.has_file) tokens.scorer_file = parts.scorer_file;
  const bool no_file = tokens.scorer == ScorerKind::kLearned && tokens.scorer_file.empty();
  if (no_file && !parts.has_file) tokens.scorer_file = shipped_scorers(model);
  if (no_file && tokens.scorer_file.empty()) {
    fail(ErrorCode::kBadArgument,
         "{}: the scorer learned needs its file, and none came with winnow for {}: {}:learned=FILE", where,
         model.name.empty() ? "this model" : printable(model.name), printable(parts.base));
  }
}

}  // namespace

std::optional<double> measured_number(const Policy& policy, const char* key) {
  if (!policy.measured.is_object()) return std::nullopt;
  const auto found = policy.measured.find(key);
  if (found == policy.measured.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

std::string shipped_scorers(const ModelFacts& model) {
  for (const std::string& folder : data_folders()) {
    for (const std::string& path : files_beside_policies(folder, ".safetensors")) {
      const ScorerFile file(path);
      if (file.version() > 1 && !model.shape_hash.empty() &&
          file.description().shape_hash == model.shape_hash)
        return path;
    }
  }
  return "";
}

bool is_scorer_name(std::string_view name) { return find_named<ScorerKind>(kScorers, name) != nullptr; }

ScorerKind scorer_from_name(std::string_view name, const std::string& where, ErrorCode unknown) {
  if (const ScorerKind* kind = find_named<ScorerKind>(kScorers, name)) return *kind;
  fail(unknown, "{}: unknown scorer \"{}\"; known: {}", where, printable(name), scorer_names());
}

const char* scorer_name(ScorerKind kind) { return name_of<ScorerKind>(kScorers, kind); }
const char* selector_name(SelectorKind kind) { return name_of<SelectorKind>(kSelectors, kind); }

TokenPolicy with_scorer(TokenPolicy tokens, ScorerKind scorer) {
  const TokenPolicy defaults;
  tokens.scorer = scorer;
  tokens.window = defaults.window;
  tokens.queries = defaults.queries;
  tokens.heads = defaults.heads;
  tokens.pool = defaults.pool;
  tokens.quota = defaults.quota;
  for (Stage& stage : tokens.stages) stage.heads.clear();
  return tokens;
}

Policy parse_policy(const std::string& text, const ModelFacts& model) {
  const Terms terms = split_terms(text);
  const PolicyText parts = split(terms.tokens);
  Policy policy = preset_or_file(parts.base, model);
  const bool names_scorer = parts.base.size() < terms.tokens.size();  // also "keep08:", whose scorer is ""
  if (names_scorer) set_scorer(policy.tokens, parts, text, model);
  if (terms.attention) policy.attention = *terms.attention;
  policy.name = text;
  if (model.layers > 0) check_policy(policy, model, parts.base);
  return policy;
}

void check_policy(const Policy& policy, const ModelFacts& model, const std::string& origin) {
  const auto check_made_for = [&](const char* key, const auto& found, const auto& expected) {
    if (found == expected) return;
    fail(ErrorCode::kBadArgument, "{}: made for another model{}: model.{} is {}, but {} has {}", origin,
         policy.model_name.empty() ? "" : fmt::format(" ({})", printable(policy.model_name)), key, found,
         printable(model.name), expected);
  };
  if (policy.model_layers) check_made_for("layers", *policy.model_layers, model.layers);
  if (!policy.shape_hash.empty()) {
    check_made_for("shape_hash", printable(policy.shape_hash), printable(model.shape_hash));
  }
  for (std::size_t i = 0; i < policy.tokens.stages.size(); ++i) {
    const Stage& stage = policy.tokens.stages[i];
    const std::int64_t layer = stage.layer;
    for (const AskedHead& asked : stage.heads) {
      if (model.heads == 0 || asked.head < model.heads) continue;
      fail(ErrorCode::kBadArgument, "{}: tokens.stages[{}].heads names [{}, {}], but {} has {} heads: 0..{}",
           origin, i, asked.layer, asked.head, printable(model.name), model.heads, model.heads - 1);
    }
    if (layer >= 1 && layer < model.layers) continue;
    fail(ErrorCode::kBadArgument,
         "{}: tokens.stages[{}].layer is {}, but {} has {} layers: a stage lies in 1..{}", origin, i, layer,
         printable(model.name), model.layers, model.layers - 1);
  }
  check_thresholds(policy.attention, model, origin);
  if (policy.attention.dense_first_layers >= model.layers) {
    fail(ErrorCode::kBadArgument,
         "{}: attention.dense_first_layers is {}, but {} has {} layers: none is left", origin,
         policy.attention.dense_first_layers, printable(model.name), model.layers);
  }
}

}  // namespace winnow
