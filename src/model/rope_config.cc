#include "model/rope_config.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>

namespace winnow {
namespace {

// A key that nothing here reads would change the frequencies behind our back.
void refuse_other_keys(const ConfigReader& scaling, std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : scaling.json().items()) {
    if (key == "rope_type" || key == "type" || value.is_null()) continue;
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      scaling.unsupported(key.c_str(), "this rope_type has no such key");
    }
  }
}

double read_factor(const ConfigReader& scaling) {
  const double factor = scaling.number("factor");
  if (factor < 1) scaling.bad("factor", fmt::format("is {}, expected at least 1", factor));
  return factor;
}

// The config's own key comes before the one in rope_scaling, and the context is what both default to.
double original_context(const ConfigReader& config, const ConfigReader& scaling) {
  constexpr const char* kKey = "original_max_position_embeddings";
  const ConfigReader& place = config.has(kKey) ? config : scaling;
  return static_cast<double>(place.has(kKey) ? place.size(kKey) : config.size("max_position_embeddings"));
}

RopeScaling read_llama3(const ConfigReader& config, const ConfigReader& scaling) {
  refuse_other_keys(scaling,
                    {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
  RopeScaling result{.kind = RopeScalingKind::kLlama3,
                     .factor = read_factor(scaling),
                     .original_context = original_context(config, scaling),
                     .low_freq_factor = scaling.number("low_freq_factor"),
                     .high_freq_factor = scaling.number("high_freq_factor"),
                     .factors = {}};
  if (result.high_freq_factor <= result.low_freq_factor) {
    scaling.bad("high_freq_factor", fmt::format("is {}, expected more than low_freq_factor {}",
                                                result.high_freq_factor, result.low_freq_factor));
  }
  return result;
}

double yarn_attention(const ConfigReader& scaling, double factor) {
  if (scaling.has("attention_factor")) return scaling.number("attention_factor");
  if (!scaling.has("mscale") || !scaling.has("mscale_all_dim")) return yarn_attention_factor(factor);
  return yarn_attention_factor(factor, scaling.number("mscale")) /
         yarn_attention_factor(factor, scaling.number("mscale_all_dim"));
}

RopeScaling read_yarn(const ConfigReader& config, const ConfigReader& scaling) {
  refuse_other_keys(scaling, {"factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast",
                              "beta_slow", "truncate", "original_max_position_embeddings"});
  RopeScaling result{
      .kind = RopeScalingKind::kYarn, .original_context = original_context(config, scaling), .factors = {}};
  result.factor = scaling.has("factor")
                      ? read_factor(scaling)
                      : static_cast<double>(config.size("max_position_embeddings")) / result.original_context;
  result.beta_fast = scaling.number("beta_fast", 32);
  result.beta_slow = scaling.number("beta_slow", 1);
  if (result.beta_fast < result.beta_slow) {
    scaling.bad("beta_fast",
                fmt::format("is {}, expected at least beta_slow {}", result.beta_fast, result.beta_slow));
  }
  result.truncate = scaling.flag("truncate", true);
  result.attention_factor = yarn_attention(scaling, result.factor);
  return result;
}

RopeScaling read_factors(const ConfigReader& scaling, std::int64_t rotary_dim) {
  refuse_other_keys(scaling, {"factors"});
  if (!scaling.has("factors")) scaling.bad("factors", "is missing");
  RopeScaling result{.kind = RopeScalingKind::kFactors, .factors = {}};
  for (const nlohmann::json& value : scaling["factors"]) {
    if (!value.is_number() || !(value.get<double>() > 0)) scaling.bad("factors", "are not all more than 0");
    result.factors.push_back(value.get<double>());
  }
  if (static_cast<std::int64_t>(result.factors.size()) != rotary_dim / 2) {
    scaling.bad("factors", fmt::format("are {}, expected one for each of {} frequencies",
                                       result.factors.size(), rotary_dim / 2));
  }
  return result;
}

}  // namespace

RopeScaling read_rope_scaling(const ConfigReader& config, std::int64_t rotary_dim) {
  if (!config.has("rope_scaling")) return {};
  const ConfigReader scaling = config.object("rope_scaling");
  const char* type_key = scaling.has("rope_type") ? "rope_type" : "type";
  const std::string type = scaling.text(type_key);
  if (type == "default") {
    refuse_other_keys(scaling, {});
    return {};
  }
  if (type == "linear" || type == "dynamic") {
    refuse_other_keys(scaling, {"factor"});
    const bool linear = type == "linear";
    return {.kind = linear ? RopeScalingKind::kLinear : RopeScalingKind::kDynamic,
            .factor = read_factor(scaling),
            .original_context = static_cast<double>(config.size("max_position_embeddings")),
            .factors = {}};
  }
  if (type == "llama3") return read_llama3(config, scaling);
  if (type == "yarn") return read_yarn(config, scaling);
  if (type == "frequency_factors") return read_factors(scaling, rotary_dim);
  scaling.unsupported(type_key, "known are default, linear, dynamic, llama3 and yarn");
}

}  // namespace winnow
