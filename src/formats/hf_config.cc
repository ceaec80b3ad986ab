#include "formats/hf_config.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/mapped_file.h"
#include "formats/json_text.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxConfigBytes = 16 << 20;

bool is_set(const Json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && !found->is_null();
}

// config[to] = config[from], unless `to` is there already or `from` is not.
void copy_key(Json& config, const char* from, const char* to) {
  if (!is_set(config, to) && is_set(config, from)) config[to] = config.at(from);
}

void set_default(Json& config, const char* key, Json value) {
  if (!is_set(config, key)) config[key] = std::move(value);
}

void add_gpt2_keys(Json& config) {
  copy_key(config, "n_embd", "hidden_size");
  copy_key(config, "n_layer", "num_hidden_layers");
  copy_key(config, "n_head", "num_attention_heads");
  copy_key(config, "num_attention_heads", "num_key_value_heads");
  copy_key(config, "n_positions", "max_position_embeddings");
  copy_key(config, "n_ctx", "max_position_embeddings");
  copy_key(config, "n_inner", "intermediate_size");
  copy_key(config, "activation_function", "hidden_act");
  set_default(config, "hidden_act", "gelu_new");
  set_default(config, "layer_norm_epsilon", 1e-5);
  set_default(config, "tie_word_embeddings", true);
  if (!is_set(config, "intermediate_size") && is_set(config, "hidden_size")) {
    const Json& hidden = config.at("hidden_size");
    const bool is_plausible = hidden.is_number_integer() && hidden > 0 && hidden < (1 << 24);
    if (is_plausible) config["intermediate_size"] = 4 * hidden.get<std::int64_t>();
  }
}

// What Gemma 3's configuration leaves out when it is the default of its class.
void add_gemma3_keys(Json& config) {
  copy_key(config, "hidden_activation", "hidden_act");
  copy_key(config, "_sliding_window_pattern", "sliding_window_pattern");
  set_default(config, "hidden_act", "gelu_pytorch_tanh");
  set_default(config, "head_dim", 256);
  set_default(config, "query_pre_attn_scalar", 256);
  set_default(config, "sliding_window_pattern", 6);
  set_default(config, "rope_theta", 1e6);
  set_default(config, "rope_local_base_freq", 1e4);
  if (!config.contains("sliding_window")) config["sliding_window"] = 4096;
}

// One entry of rope_parameters: {"rope_theta": t, "rope_type": "default" | name, ...}; older files say
// "type". What is more than a default with a theta goes to config[scaling_key], for the model to accept or
// refuse.
void add_rope_keys(Json& config, const Json& parameters, const char* theta_key, const char* scaling_key) {
  if (is_set(parameters, "rope_theta")) set_default(config, theta_key, parameters.at("rope_theta"));
  if (is_set(parameters, "partial_rotary_factor")) {
    set_default(config, "partial_rotary_factor", parameters.at("partial_rotary_factor"));
  }
  if (is_set(config, scaling_key)) return;
  Json scaling = parameters;
  scaling.erase("rope_theta");
  scaling.erase("partial_rotary_factor");
  for (const char* key : {"rope_type", "type"}) {
    if (scaling.contains(key) && scaling.at(key) == "default") scaling.erase(key);
  }
  if (!scaling.empty()) config[scaling_key] = std::move(scaling);
}

// transformers 5 writes rope_parameters, either one entry or one for each type of layer (Gemma 3).
void add_rope_keys(Json& config) {
  const auto found = config.find("rope_parameters");
  if (found == config.end() || !found->is_object()) return;
  const Json parameters = *found;
  const auto global = parameters.find("full_attention"), local = parameters.find("sliding_attention");
  const bool by_layer = global != parameters.end() && global->is_object();
  add_rope_keys(config, by_layer ? *global : parameters, "rope_theta", "rope_scaling");
  if (by_layer && local != parameters.end() && local->is_object()) {
    add_rope_keys(config, *local, "rope_local_base_freq", "rope_local_scaling");
  }
}

}  // namespace

Json parse_hf_config(std::string_view text, const std::string& file) {
  Json config = parse_json_object(text, file, kMaxConfigBytes);
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) {
    fail(ErrorCode::kBadFormat, "{}: the key model_type is missing or no string", file);
  }
  const std::string model_type = type->get<std::string>();
  if (model_type == "gpt2") add_gpt2_keys(config);
  add_rope_keys(config);
  if (model_type == "gemma3_text") add_gemma3_keys(config);
  if (model_type == "stablelm") set_default(config, "partial_rotary_factor", 0.25);
  if (model_type == "mistral" && !config.contains("sliding_window")) config["sliding_window"] = 4096;
  // What the classes of Llama, Mistral and Qwen assume; files from before the key have no other.
  if (model_type != "gpt2") set_default(config, "rope_theta", 1e4);
  return config;
}

Json read_hf_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  const MappedFile file(path);
  return parse_hf_config(file.text(), path);
}

}  // namespace winnow
