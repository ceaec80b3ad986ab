// Policies as JSON. Everything is checked here, so that the rest of the program can trust a Policy.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>

#include "core/error.h"
#include "sparsity/attention_json.h"
#include "sparsity/policy.h"
#include "sparsity/policy_fields.h"
#include "sparsity/policy_names.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

// Written, and read as well as version 1, in which `pool` said nothing about learned scores.
constexpr std::int64_t kVersion = 2;

constexpr NamedValue<HeadReduction> kHeads[] = {{"max", HeadReduction::kMax}, {"mean", HeadReduction::kMean}};
constexpr NamedValue<QueryReduction> kQueries[] = {{"mean", QueryReduction::kMean},
                                                   {"max", QueryReduction::kMax}};
constexpr NamedValue<PositionMode> kPositions[] = {{"original", PositionMode::kOriginal},
                                                   {"compact", PositionMode::kCompact}};
constexpr NamedValue<KvMode> kKv[] = {{"own", KvMode::kOwn}, {"final", KvMode::kFinal}};

// [[layer, head], ...] of layers before the stage's.
std::vector<AskedHead> read_heads(const Fields& stage, std::int64_t stage_layer) {
  std::vector<AskedHead> heads;
  const Json* json = stage.find("heads");
  if (json == nullptr) return heads;
  constexpr const char* kExpected = "a list of [layer, head], at least one and none twice";
  const auto fits = [](const Json& number) {
    return number.is_number_integer() && number >= 0 && number <= std::numeric_limits<std::int32_t>::max();
  };
  if (!json->is_array() || json->empty()) stage.fail_type("heads", *json, kExpected);
  for (const Json& pair : *json) {
    if (!pair.is_array() || pair.size() != 2 || !fits(pair[0]) || !fits(pair[1])) {
      stage.fail_type("heads", *json, kExpected);
    }
    const AskedHead asked{pair[0].get<std::int64_t>(), pair[1].get<std::int32_t>()};
    if (std::find(heads.begin(), heads.end(), asked) != heads.end()) {
      stage.fail_type("heads", *json, kExpected);
    }
    if (asked.layer >= stage_layer) {
      stage.fail_key("heads",
                     fmt::format("[{}, {}] is asked, but the stage stands before layer {} and can ask "
                                 "earlier layers only",
                                 asked.layer, asked.head, stage_layer));
    }
    heads.push_back(asked);
  }
  return heads;
}

Stage read_stage(const Json& json, const std::string& path, const std::string& origin) {
  const Fields fields(json, path, origin, {"layer", "keep", "top_p", "heads"});
  const auto layer = fields.integer("layer", 1);
  if (!layer) fields.fail_key("layer", "is missing");
  const auto keep = fields.number("keep", kPositiveShare);
  const auto top_p = fields.number("top_p", kPositiveShare);
  if (keep.has_value() == top_p.has_value()) {
    fail(ErrorCode::kBadFormat, "{}: {} needs exactly one of keep and top_p, and has {}", origin, path,
         keep ? "both" : "neither");
  }
  return {*layer, keep.value_or(1.0), top_p, read_heads(fields, *layer)};
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
  tokens.queries = fields.choice<QueryReduction>("queries", kQueries).value_or(tokens.queries);
  tokens.heads = fields.choice<HeadReduction>("heads", kHeads).value_or(tokens.heads);
  tokens.pool = fields.integer("pool", 1).value_or(tokens.pool);
  if (tokens.pool % 2 == 0)
    fields.fail_key("pool", fmt::format("found {}, expected an odd number", tokens.pool));
  tokens.recency_mix = fields.number("recency_mix", kShare).value_or(tokens.recency_mix);
  tokens.quota = fields.number("quota", kShare).value_or(tokens.quota);
  tokens.scorer_file = read_scorer_file(fields);
  tokens.seed = fields.unsigned_64("seed").value_or(tokens.seed);
  if (tokens.scorer == ScorerKind::kLearned && tokens.scorer_file.empty()) {
    fields.fail_key("scorer_file", "is missing; the scorer learned needs it");
  }
  const auto asks = [](const Stage& stage) { return !stage.heads.empty(); };
  if (tokens.scorer != ScorerKind::kAttention && tokens.scorer != ScorerKind::kOracle &&
      std::any_of(tokens.stages.begin(), tokens.stages.end(), asks)) {
    fields.fail_key("scorer",
                    fmt::format("is {}, but a stage names heads, which only the scorer attention asks",
                                scorer_name(tokens.scorer)));
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
                      {"stages", "scorer", "window", "queries", "heads", "pool", "recency_mix", "quota",
                       "scorer_file", "seed", "protect_head", "protect_tail", "positions", "kv"});
  TokenPolicy tokens;
  tokens.stages = read_stages(fields);
  read_scorer(fields, tokens);
  tokens.protect_head = fields.integer("protect_head", 0).value_or(tokens.protect_head);
  read_protect_tail(fields, tokens);
  tokens.positions = fields.choice<PositionMode>("positions", kPositions).value_or(tokens.positions);
  tokens.kv = fields.choice<KvMode>("kv", kKv).value_or(tokens.kv);
  return tokens;
}

// Informative, so only names and the kind of value are checked; what was not measured may be null.
Json read_measured(const Json& json, const std::string& origin) {
  const Fields fields(json, "measured", origin,
                      {"kl", "dce", "niah", "second_question_niah", "second_question_niah_dense", "speedup",
                       "density", "avgtok", "length", "text_sha256", "machine"});
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

std::int64_t read_version(const Fields& fields) {
  const auto version = fields.integer("version", 0);
  if (!version) fields.fail_key("version", fmt::format("is missing, expected {}", kVersion));
  if (*version < 1 || *version > kVersion) {
    fields.fail_key("version",
                    fmt::format("found {}, but this release reads versions 1 to {}", *version, kVersion),
                    ErrorCode::kUnsupported);
  }
  return *version;
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
    for (const AskedHead& asked : stage.heads) entry["heads"].push_back({asked.layer, asked.head});
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
          {"queries", name_of<QueryReduction>(kQueries, tokens.queries)},
          {"heads", name_of<HeadReduction>(kHeads, tokens.heads)},
          {"pool", tokens.pool},
          {"recency_mix", tokens.recency_mix},
          {"quota", tokens.quota},
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
  const std::int64_t version = read_version(fields);
  Policy policy;
  policy.name = origin;
  if (const Json* model = fields.find("model")) read_model(*model, origin, policy);
  if (const Json* tokens = fields.find("tokens")) policy.tokens = read_tokens(*tokens, origin);
  if (version == 1 && policy.tokens.scorer == ScorerKind::kLearned) policy.tokens.pool = 1;
  if (const Json* attention = fields.find("attention")) policy.attention = read_attention(*attention, origin);
  if (const Json* measured = fields.find("measured")) policy.measured = read_measured(*measured, origin);
  return policy;
}

nlohmann::json policy_to_json(const Policy& policy) {
  Json json = {{"version", kVersion},
               {"tokens", tokens_to_json(policy.tokens)},
               {"attention", attention_to_json(policy.attention)}};
  if (Json model = model_to_json(policy); !model.empty()) json["model"] = std::move(model);
  if (!policy.measured.is_null()) json["measured"] = policy.measured;
  return json;
}

}  // namespace winnow
