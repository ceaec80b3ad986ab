// Policies as JSON. Everything is checked here, so that the rest of the program can trust a Policy.
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "core/byte_reader.h"
#include "core/error.h"
#include "sparsity/policy.h"
#include "sparsity/policy_names.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kVersion = 1;
// Counts of tokens and layers stay where sums and products of them cannot overflow.
constexpr std::int64_t kMaxCount = std::numeric_limits<std::int32_t>::max();

constexpr NamedValue<HeadReduction> kHeads[] = {{"max", HeadReduction::kMax}, {"mean", HeadReduction::kMean}};
constexpr NamedValue<PositionMode> kPositions[] = {{"original", PositionMode::kOriginal},
                                                   {"compact", PositionMode::kCompact}};
constexpr NamedValue<KvMode> kKv[] = {{"own", KvMode::kOwn}, {"final", KvMode::kFinal}};
constexpr std::string_view kSparseSelectors[] = {"exact_mass", "threshold",      "antidiagonal",
                                                 "pooled",     "vertical_slash", "local"};

// Numbers from `low` (itself excluded when `open`) to `high`.
struct Interval {
  double low, high;
  bool open;

  bool contains(double x) const { return (open ? x > low : x >= low) && x <= high; }  // false for NaN
  std::string text() const { return fmt::format("{}{}, {}]", open ? "(" : "[", low, high); }
};
constexpr Interval kShare{0.0, 1.0, false};
constexpr Interval kPositiveShare{0.0, 1.0, true};

std::string shown(const Json& value) {
  return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

// One object of the file; messages name the file and the path of the key. Absent keys are nullopt.
class Fields {
 public:
  using Keys = std::initializer_list<std::string_view>;

  // Error when `json` is no object or has a key that is not in `known`.
  Fields(const Json& json, std::string path, const std::string& origin, Keys known)
      : json_(json), path_(std::move(path)), origin_(origin) {
    if (!json.is_object()) {
      fail(ErrorCode::kBadFormat, "{}: {} is {}, expected an object", origin_,
           path_.empty() ? "the policy" : path_, shown(json));
    }
    for (const auto& [key, value] : json.items()) check_known(key, known);
  }

  const std::string& origin() const { return origin_; }
  std::string path_of(std::string_view key) const {
    return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  }
  [[noreturn]] void fail_key(std::string_view key, const std::string& what,
                             ErrorCode code = ErrorCode::kBadFormat) const {
    fail(code, "{}: {}: {}", origin_, path_of(key), what);
  }

  const Json* find(std::string_view key) const {
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }

  std::optional<std::int64_t> integer(std::string_view key, std::int64_t low) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    // An unsigned number beyond int64 comes out negative, so it is compared before.
    const bool fits = value->is_number_integer() &&
                      !(value->is_number_unsigned() && value->get<std::uint64_t>() > kMaxCount) &&
                      value->get<std::int64_t>() >= low && value->get<std::int64_t>() <= kMaxCount;
    if (!fits) fail_type(key, *value, fmt::format("an integer in {}..{}", low, kMaxCount));
    return value->get<std::int64_t>();
  }

  std::optional<std::uint64_t> unsigned_64(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    const bool fits =
        value->is_number_unsigned() || (value->is_number_integer() && value->get<std::int64_t>() >= 0);
    if (!fits) fail_type(key, *value, "an integer of 0 or more (64 bits)");
    return value->get<std::uint64_t>();
  }

  std::optional<double> number(std::string_view key, const Interval& interval) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number() || !interval.contains(value->get<double>())) {
      fail_type(key, *value, "a number in " + interval.text());
    }
    return value->get<double>();
  }

  std::optional<std::string> string(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) fail_type(key, *value, "a string");
    return value->get<std::string>();
  }

  template <class T>
  std::optional<T> choice(std::string_view key, std::span<const NamedValue<T>> values) const {
    const auto name = string(key);
    if (!name) return std::nullopt;
    const T* value = find_named(values, *name);
    if (value == nullptr) fail_type(key, Json(*name), "one of " + names_of(values));
    return *value;
  }

  [[noreturn]] void fail_type(std::string_view key, const Json& value, const std::string& expected) const {
    fail_key(key, fmt::format("found {}, expected {}", shown(value), expected));
  }

 private:
  void check_known(const std::string& key, Keys known) const {
    std::string names;
    for (const std::string_view name : known) {
      if (name == key) return;
      names += names.empty() ? "" : ", ";
      names += name;
    }
    fail(ErrorCode::kBadFormat, "{}: unknown key {}; known here: {}", origin_, path_of(printable(key)),
         names);
  }

  const Json& json_;
  std::string path_;
  const std::string& origin_;
};

Stage read_stage(const Json& json, const std::string& path, const std::string& origin) {
  const Fields fields(json, path, origin, {"layer", "keep", "top_p"});
  const auto layer = fields.integer("layer", 1);
  if (!layer) fields.fail_key("layer", "is missing");
  const auto keep = fields.number("keep", kPositiveShare);
  const auto top_p = fields.number("top_p", kPositiveShare);
  if (keep.has_value() == top_p.has_value()) {
    fail(ErrorCode::kBadFormat, "{}: {} needs exactly one of keep and top_p, and has {}", origin, path,
         keep ? "both" : "neither");
  }
  return {*layer, keep.value_or(1.0), top_p};
}

std::vector<Stage> read_stages(const Fields& tokens) {
  std::vector<Stage> stages;
  const Json* json = tokens.find("stages");
  if (json == nullptr) return stages;
  if (!json->is_array()) tokens.fail_type("stages", *json, "an array");
  for (const Json& element : *json) {
    const std::string path = fmt::format("{}[{}]", tokens.path_of("stages"), stages.size());
    stages.push_back(read_stage(element, path, tokens.origin()));
    if (stages.size() < 2) continue;
    const std::int64_t before = stages[stages.size() - 2].layer;
    if (stages.back().layer <= before) {
      fail(ErrorCode::kBadFormat, "{}: {}.layer is {}, after a stage at {}: stages ascend by layer",
           tokens.origin(), path, stages.back().layer, before);
    }
  }
  return stages;
}

// Relative to the policy file, wherever the program runs.
std::string read_scorer_file(const Fields& tokens) {
  const Json* json = tokens.find("scorer_file");
  if (json == nullptr || json->is_null()) return "";
  if (!json->is_string()) tokens.fail_type("scorer_file", *json, "a file name or null");
  const std::filesystem::path file = json->get<std::string>();
  if (file.empty()) tokens.fail_type("scorer_file", *json, "a file name or null");
  return (std::filesystem::path(tokens.origin()).parent_path() / file).lexically_normal().string();
}

void read_scorer(const Fields& fields, TokenPolicy& tokens) {
  if (const auto name = fields.string("scorer")) {
    tokens.scorer = scorer_from_name(*name, fmt::format("{}: {}", fields.origin(), fields.path_of("scorer")),
                                     ErrorCode::kBadFormat);
  }
  tokens.window = fields.integer("window", 1).value_or(tokens.window);
  tokens.heads = fields.choice<HeadReduction>("heads", kHeads).value_or(tokens.heads);
  tokens.pool = fields.integer("pool", 1).value_or(tokens.pool);
  if (tokens.pool % 2 == 0)
    fields.fail_key("pool", fmt::format("found {}, expected an odd number", tokens.pool));
  tokens.recency_mix = fields.number("recency_mix", kShare).value_or(tokens.recency_mix);
  tokens.scorer_file = read_scorer_file(fields);
  tokens.seed = fields.unsigned_64("seed").value_or(tokens.seed);
  if (tokens.scorer == ScorerKind::kLearned && tokens.scorer_file.empty()) {
    fields.fail_key("scorer_file", "is missing; the scorer learned needs it");
  }
}

void read_protect_tail(const Fields& fields, TokenPolicy& tokens) {
  const Json* json = fields.find("protect_tail");
  if (json == nullptr) return;
  const Fields tail(*json, fields.path_of("protect_tail"), fields.origin(), {"min", "share"});
  tokens.protect_tail_min = tail.integer("min", 1).value_or(tokens.protect_tail_min);
  tokens.protect_tail_share = tail.number("share", kShare).value_or(tokens.protect_tail_share);
}

TokenPolicy read_tokens(const Json& json, const std::string& origin) {
  const Fields fields(json, "tokens", origin,
                      {"stages", "scorer", "window", "heads", "pool", "recency_mix", "scorer_file", "seed",
                       "protect_head", "protect_tail", "positions", "kv"});
  TokenPolicy tokens;
  tokens.stages = read_stages(fields);
  read_scorer(fields, tokens);
  tokens.protect_head = fields.integer("protect_head", 0).value_or(tokens.protect_head);
  read_protect_tail(fields, tokens);
  tokens.positions = fields.choice<PositionMode>("positions", kPositions).value_or(tokens.positions);
  tokens.kv = fields.choice<KvMode>("kv", kKv).value_or(tokens.kv);
  return tokens;
}

// This release has no block selection. A file that asks for it must not run dense in silence.
void check_attention(const Json& json, const std::string& origin) {
  const Fields fields(
      json, "attention", origin,
      {"selector", "q_block", "k_block", "stride", "criterion", "thresholds", "sink_tokens", "local_tokens",
       "dense_last_tokens", "dense_first_layers", "mean_correction", "group_union", "decode"});
  const std::string selector = fields.string("selector").value_or("dense");
  constexpr const char* kOnlyDense =
      "this release has no block selection; only {\"selector\": \"dense\"} runs";
  for (const std::string_view known : kSparseSelectors) {
    if (selector != known) continue;
    fields.fail_key("selector", fmt::format("\"{}\": {}", selector, kOnlyDense), ErrorCode::kUnsupported);
  }
  if (selector != "dense") {
    fields.fail_type("selector", Json(selector),
                     fmt::format("one of dense, {}", fmt::join(kSparseSelectors, ", ")));
  }
  for (const auto& [key, value] : json.items()) {
    if (key != "selector") fields.fail_key(key, kOnlyDense, ErrorCode::kUnsupported);
  }
}

// Informative, so only names and the kind of value are checked; what was not measured may be null.
Json read_measured(const Json& json, const std::string& origin) {
  const Fields fields(json, "measured", origin,
                      {"kl", "dce", "niah", "second_question_niah", "speedup", "density", "avgtok", "length",
                       "text_sha256", "machine"});
  for (const auto& [key, value] : json.items()) {
    if (value.is_null() || key == "machine") continue;
    const bool is_hash = key == "text_sha256";
    if (is_hash ? !value.is_string() : !value.is_number()) {
      fields.fail_type(key, value, is_hash ? "a string" : "a number");
    }
  }
  return json;
}

void read_model(const Json& json, const std::string& origin, Policy& policy) {
  const Fields fields(json, "model", origin, {"name", "layers", "shape_hash"});
  policy.model_name = fields.string("name").value_or("");
  policy.model_layers = fields.integer("layers", 1);
  policy.shape_hash = fields.string("shape_hash").value_or("");
}

void check_version(const Fields& fields) {
  const auto version = fields.integer("version", 0);
  if (!version) fields.fail_key("version", fmt::format("is missing, expected {}", kVersion));
  if (*version != kVersion) {
    fields.fail_key("version",
                    fmt::format("found {}, but this release reads version {} only", *version, kVersion),
                    ErrorCode::kUnsupported);
  }
}

Json stages_to_json(const std::vector<Stage>& stages) {
  Json result = Json::array();
  for (const Stage& stage : stages) {
    Json entry = {{"layer", stage.layer}};
    if (stage.top_p) {
      entry["top_p"] = *stage.top_p;
    } else {
      entry["keep"] = stage.keep;
    }
    result.push_back(std::move(entry));
  }
  return result;
}

// Absolute, because the JSON may be saved anywhere and a relative path would then count from there.
Json scorer_file_to_json(const std::string& file) {
  if (file.empty()) return nullptr;
  return std::filesystem::absolute(file).lexically_normal().string();
}

Json tokens_to_json(const TokenPolicy& tokens) {
  return {{"stages", stages_to_json(tokens.stages)},
          {"scorer", scorer_name(tokens.scorer)},
          {"window", tokens.window},
          {"heads", name_of<HeadReduction>(kHeads, tokens.heads)},
          {"pool", tokens.pool},
          {"recency_mix", tokens.recency_mix},
          {"scorer_file", scorer_file_to_json(tokens.scorer_file)},
          {"seed", tokens.seed},
          {"protect_head", tokens.protect_head},
          {"protect_tail", {{"min", tokens.protect_tail_min}, {"share", tokens.protect_tail_share}}},
          {"positions", name_of<PositionMode>(kPositions, tokens.positions)},
          {"kv", name_of<KvMode>(kKv, tokens.kv)}};
}

Json model_to_json(const Policy& policy) {
  Json model = Json::object();
  if (!policy.model_name.empty()) model["name"] = policy.model_name;
  if (policy.model_layers) model["layers"] = *policy.model_layers;
  if (!policy.shape_hash.empty()) model["shape_hash"] = policy.shape_hash;
  return model;
}

}  // namespace

Policy policy_from_json(const nlohmann::json& json, const std::string& origin) {
  const Fields fields(json, "", origin, {"version", "model", "tokens", "attention", "measured"});
  check_version(fields);
  Policy policy;
  policy.name = origin;
  if (const Json* model = fields.find("model")) read_model(*model, origin, policy);
  if (const Json* tokens = fields.find("tokens")) policy.tokens = read_tokens(*tokens, origin);
  if (const Json* attention = fields.find("attention")) check_attention(*attention, origin);
  if (const Json* measured = fields.find("measured")) policy.measured = read_measured(*measured, origin);
  return policy;
}

nlohmann::json policy_to_json(const Policy& policy) {
  Json json = {{"version", kVersion},
               {"tokens", tokens_to_json(policy.tokens)},
               {"attention", {{"selector", "dense"}}}};
  if (Json model = model_to_json(policy); !model.empty()) json["model"] = std::move(model);
  if (!policy.measured.is_null()) json["measured"] = policy.measured;
  return json;
}

}  // namespace winnow
