#include "sparsity/attention_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "sparsity/policy_fields.h"
#include "sparsity/policy_names.h"
#include "sparsity/selector.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMaxBlock = 1024;
constexpr NamedValue<BlockCriterion> kCriteria[] = {{"sum", BlockCriterion::kMass},
                                                    {"max", BlockCriterion::kMaximum}};
constexpr NamedValue<DecodeMode> kDecode[] = {{"dense", DecodeMode::kDense},
                                              {"selected", DecodeMode::kSelected}};
constexpr NamedValue<bool> kGate[] = {{"measured", true}, {"off", false}};

// Keys that only some selectors know; the others are every selector's but dense's, which knows itself alone.
bool knows(SelectorKind selector, std::string_view key) {
  if (key == "selector") return true;
  if (selector == SelectorKind::kDense) return false;
  if (key == "stride") return selector == SelectorKind::kAntidiagonal;
  if (key == "pool" || key == "outliers" || key == "variance" || key == "query_stride") {
    return selector == SelectorKind::kPooled;
  }
  if (key == "criterion" || key == "thresholds") return selector != SelectorKind::kLocal;
  return true;
}

void check_keys(const Fields& fields, const Json& json, SelectorKind selector) {
  for (const auto& [key, value] : json.items()) {
    if (knows(selector, key)) continue;
    fields.fail_key(
        key, fmt::format("the selector {} has no such setting: leave it out", selector_name(selector)));
  }
}

float read_threshold(const Fields& fields, const Json& value) {
  const double number = value.is_number() ? value.get<double>() : 0.0;
  const auto threshold = static_cast<float>(std::clamp(number, 0.0, 1.0));
  if (!value.is_number() || !kShare.contains(number)) {
    fields.fail_type("thresholds", value, "numbers in " + kShare.text());
  }
  return threshold;
}

std::vector<std::vector<float>> read_thresholds(const Fields& fields, const Json& json) {
  if (json.is_number()) return {{read_threshold(fields, json)}};
  constexpr const char* kShape = "a number, or [[one number, or one for each head] for each layer]";
  if (!json.is_array() || json.empty()) fields.fail_type("thresholds", json, kShape);
  std::vector<std::vector<float>> table;
  for (const Json& layer : json) {
    if (!layer.is_array() || layer.empty()) fields.fail_type("thresholds", layer, kShape);
    std::vector<float>& row = table.emplace_back();
    for (const Json& value : layer) row.push_back(read_threshold(fields, value));
  }
  return table;
}

void read_criterion(const Fields& fields, AttentionPolicy& policy) {
  const auto criterion = fields.choice<BlockCriterion>("criterion", kCriteria);
  if (criterion && policy.selector != SelectorKind::kPooled && *criterion != policy.rule.criterion) {
    fields.fail_key("criterion", fmt::format("the selector {} goes by {}; only pooled can be told",
                                             selector_name(policy.selector),
                                             name_of<BlockCriterion>(kCriteria, policy.rule.criterion)));
  }
  policy.rule.criterion = criterion.value_or(policy.rule.criterion);
  policy.thresholds = {{default_threshold(policy.rule.criterion)}};
}

void check_divides(const Fields& fields, std::string_view key, std::int64_t value, const char* block_key,
                   std::int64_t block) {
  if (block % value == 0) return;
  fields.fail_key(key, fmt::format("{} does not divide {} {}", value, fields.path_of(block_key), block));
}

void read_rule(const Fields& fields, BlockRule& rule) {
  const auto block = [&](std::string_view key, std::int64_t& value) {
    value = fields.integer(key, 1, kMaxBlock).value_or(value);
  };
  block("q_block", rule.q_block);
  block("k_block", rule.k_block);
  block("stride", rule.stride);
  block("pool", rule.pool);
  block("query_stride", rule.query_stride);
  rule.outliers = fields.integer("outliers", 0, kMaxOutliers).value_or(rule.outliers);
  rule.variance = fields.boolean("variance").value_or(rule.variance);
  rule.sink_tokens = fields.integer("sink_tokens", 0).value_or(rule.sink_tokens);
  rule.local_tokens = fields.integer("local_tokens", 0).value_or(rule.local_tokens);
  rule.group_union = fields.boolean("group_union").value_or(rule.group_union);
  rule.mean_correction = fields.boolean("mean_correction").value_or(rule.mean_correction);
  if (rule.estimator == BlockEstimator::kAntidiagonal) {
    check_divides(fields, "stride", rule.stride, "q_block", rule.q_block);
    check_divides(fields, "stride", rule.stride, "k_block", rule.k_block);
  }
  if (rule.estimator == BlockEstimator::kPooled) {
    check_divides(fields, "pool", rule.pool, "k_block", rule.k_block);
    if (rule.outliers >= rule.pool) {
      fields.fail_key("outliers", fmt::format("{} leave nothing of a pool of {}", rule.outliers, rule.pool));
    }
    if (rule.outliers > 0 && rule.variance) fields.fail_key("variance", "not together with outliers");
  }
}

DecodeMode read_decode(const Fields& fields, const AttentionPolicy& policy) {
  const DecodeMode decode = fields.choice<DecodeMode>("decode", kDecode).value_or(policy.decode);
  if (decode == DecodeMode::kSelected && policy.selector == SelectorKind::kVerticalSlash) {
    fields.fail_key("decode", "vertical_slash chooses by the prompt's last queries: only dense decoding");
  }
  return decode;
}

// The shortest decimal that reads back as the same float: 0.95, not 0.949999988079071.
double shortest(float value) { return std::strtod(fmt::format("{}", value).c_str(), nullptr); }

Json thresholds_to_json(const AttentionPolicy& policy) {
  if (policy.one_threshold()) return shortest(policy.thresholds[0][0]);
  Json table = Json::array();
  for (const std::vector<float>& layer : policy.thresholds) {
    Json& row = table.emplace_back(Json::array());
    for (const float threshold : layer) row.push_back(shortest(threshold));
  }
  return table;
}

}  // namespace

AttentionPolicy read_attention(const Json& json, const std::string& origin) {
  const Fields fields(json, "attention", origin,
                      {"selector", "q_block", "k_block", "stride", "criterion", "thresholds", "sink_tokens",
                       "local_tokens", "dense_last_tokens", "dense_first_layers", "mean_correction",
                       "group_union", "decode", "pool", "outliers", "variance", "query_stride", "gate"});
  const SelectorKind selector =
      fields.choice<SelectorKind>("selector", kSelectors).value_or(SelectorKind::kDense);
  check_keys(fields, json, selector);
  AttentionPolicy policy = attention_policy(selector);
  if (policy.dense()) return policy;
  read_criterion(fields, policy);
  read_rule(fields, policy.rule);
  if (const Json* thresholds = fields.find("thresholds")) {
    policy.thresholds = read_thresholds(fields, *thresholds);
  }
  policy.dense_last_tokens = fields.integer("dense_last_tokens", 0).value_or(policy.dense_last_tokens);
  policy.dense_first_layers = fields.integer("dense_first_layers", 0).value_or(policy.dense_first_layers);
  policy.decode = read_decode(fields, policy);
  policy.gate = fields.choice<bool>("gate", kGate).value_or(policy.gate);
  return policy;
}

nlohmann::json attention_to_json(const AttentionPolicy& policy) {
  const BlockRule& rule = policy.rule;
  Json all = {{"selector", selector_name(policy.selector)},
              {"q_block", rule.q_block},
              {"k_block", rule.k_block},
              {"stride", rule.stride},
              {"pool", rule.pool},
              {"outliers", rule.outliers},
              {"variance", rule.variance},
              {"query_stride", rule.query_stride},
              {"criterion", name_of<BlockCriterion>(kCriteria, rule.criterion)},
              {"thresholds", thresholds_to_json(policy)},
              {"sink_tokens", rule.sink_tokens},
              {"local_tokens", rule.local_tokens},
              {"dense_last_tokens", policy.dense_last_tokens},
              {"dense_first_layers", policy.dense_first_layers},
              {"mean_correction", rule.mean_correction},
              {"group_union", rule.group_union},
              {"decode", name_of<DecodeMode>(kDecode, policy.decode)},
              {"gate", name_of<bool>(kGate, policy.gate)}};
  Json known = Json::object();
  for (const auto& [key, value] : all.items()) {
    if (knows(policy.selector, key)) known[key] = value;
  }
  return known;
}

}  // namespace winnow
