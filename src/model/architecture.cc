#include "model/architecture.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"

namespace winnow {
namespace {

using nlohmann::json;

// What a family fixes; sizes come from the config.
struct Family {
  TensorNames names;
  NormKind norm;
  ActivationKind activation;
  bool rope;
  const char* epsilon_key;
  const char* hidden_act;  // the one activation the family is published with
};

TensorNames llama_names() {
  const std::string layer = "model.layers.{}.";
  return {.embedding = "model.embed_tokens.weight",
          .position_embedding = "",
          .final_norm = "model.norm.weight",
          .lm_head = "lm_head.weight",
          .attention_norm = layer + "input_layernorm.weight",
          .q = layer + "self_attn.q_proj.weight",
          .k = layer + "self_attn.k_proj.weight",
          .v = layer + "self_attn.v_proj.weight",
          .qkv = "",
          .attention_out = layer + "self_attn.o_proj.weight",
          .ffn_norm = layer + "post_attention_layernorm.weight",
          .gate = layer + "mlp.gate_proj.weight",
          .up = layer + "mlp.up_proj.weight",
          .down = layer + "mlp.down_proj.weight"};
}

TensorNames gpt2_names() {
  const std::string layer = "transformer.h.{}.";
  return {.embedding = "transformer.wte.weight",
          .position_embedding = "transformer.wpe.weight",
          .final_norm = "transformer.ln_f.weight",
          .lm_head = "lm_head.weight",
          .attention_norm = layer + "ln_1.weight",
          .q = "",
          .k = "",
          .v = "",
          .qkv = layer + "attn.c_attn.weight",
          .attention_out = layer + "attn.c_proj.weight",
          .ffn_norm = layer + "ln_2.weight",
          .gate = "",
          .up = layer + "mlp.c_fc.weight",
          .down = layer + "mlp.c_proj.weight"};
}

const std::map<std::string, Family>& families() {
  static const std::map<std::string, Family> table{
      {"llama", {llama_names(), NormKind::kRms, ActivationKind::kSiluGated, true, "rms_norm_eps", "silu"}},
      {"qwen2", {llama_names(), NormKind::kRms, ActivationKind::kSiluGated, true, "rms_norm_eps", "silu"}},
      {"gpt2",
       {gpt2_names(), NormKind::kLayer, ActivationKind::kGeluTanh, false, "layer_norm_epsilon", "gelu_new"}},
  };
  return table;
}

// Typed access to the config, with errors that name file and key.
class ConfigReader {
 public:
  explicit ConfigReader(const WeightSource& source) : path_(source.path()), config_(source.config()) {}

  bool has(const char* key) const { return config_.contains(key) && !config_[key].is_null(); }
  std::string text(const char* key) const {
    if (!has(key) || !config_[key].is_string())
      fail(ErrorCode::kBadFormat, "{}: config: {} is missing or no text", path_, key);
    return config_[key].get<std::string>();
  }
  std::int64_t size(const char* key, std::int64_t largest = 1 << 24) const {
    if (!has(key) || !config_[key].is_number_integer()) {
      fail(ErrorCode::kBadFormat, "{}: config: {} is missing or no integer", path_, key);
    }
    const auto value = config_[key].get<std::int64_t>();
    if (value < 1 || value > largest)
      fail(ErrorCode::kBadFormat, "{}: config: {} is {}, expected 1..{}", path_, key, value, largest);
    return value;
  }
  double number(const char* key) const {
    if (!has(key) || !config_[key].is_number())
      fail(ErrorCode::kBadFormat, "{}: config: {} is missing or no number", path_, key);
    const auto value = config_[key].get<double>();
    if (!std::isfinite(value) || value <= 0)
      fail(ErrorCode::kBadFormat, "{}: config: {} is {}, expected more than 0", path_, key, value);
    return value;
  }
  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!config_[key].is_boolean()) fail(ErrorCode::kBadFormat, "{}: config: {} is no boolean", path_, key);
    return config_[key].get<bool>();
  }
  [[noreturn]] void unsupported(const char* key, const std::string& why) const {
    fail(ErrorCode::kUnsupported, "{}: config: {} = {} is not supported: {}", path_, key, config_[key].dump(),
         why);
  }
  const json& operator[](const char* key) const { return config_[key]; }
  const std::string& path() const { return path_; }

 private:
  const std::string& path_;
  const json& config_;
};

// Values that change the computation in ways winnow does not do: an error, never a silent default.
void refuse_unsupported(const ConfigReader& config, const Family& family) {
  if (config.has("rope_scaling")) config.unsupported("rope_scaling", "only unscaled rotary embeddings are");
  if (config.has("partial_rotary_factor") && config.number("partial_rotary_factor") != 1.0) {
    config.unsupported("partial_rotary_factor", "only 1 is");
  }
  if (config.has("layer_types")) {
    for (const json& type : config["layer_types"]) {
      if (type != "full_attention") config.unsupported("layer_types", "only full_attention is");
    }
  }
  if (config.has("sliding_window") && config.flag("use_sliding_window", true)) {
    config.unsupported("sliding_window", "only full attention is");
  }
  if (config.has("hidden_act") && config["hidden_act"] != family.hidden_act) {
    config.unsupported("hidden_act", fmt::format("this family needs {}", family.hidden_act));
  }
  for (const char* key :
       {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"}) {
    if (config.flag(key, false)) config.unsupported(key, "only false is");
  }
  if (!config.flag("scale_attn_weights", true)) config.unsupported("scale_attn_weights", "only true is");
}

void check_heads(const Architecture& arch, const std::string& path) {
  if (arch.heads % arch.kv_heads != 0) {
    fail(ErrorCode::kBadFormat,
         "{}: config: num_attention_heads {} is not a multiple of num_key_value_heads {}", path, arch.heads,
         arch.kv_heads);
  }
  constexpr std::int64_t kLargestHeadDim = 512;
  if (arch.head_dim > kLargestHeadDim) {
    fail(ErrorCode::kUnsupported, "{}: config: head_dim {} is not supported, at most {} is", path,
         arch.head_dim, kLargestHeadDim);
  }
  if (arch.rope_theta > 0 && arch.head_dim % 2 != 0) {
    fail(ErrorCode::kBadFormat, "{}: config: head_dim {} must be even for rotary embeddings", path,
         arch.head_dim);
  }
}

std::string file_stem(const std::string& path) {
  const std::size_t end = path.find_last_not_of('/') + 1;
  const std::size_t slash = path.find_last_of('/', end == 0 ? 0 : end - 1);
  return path.substr(slash == std::string::npos ? 0 : slash + 1,
                     end - (slash == std::string::npos ? 0 : slash + 1));
}

// Far beyond any model, and small enough that the products of sizes that occur stay inside int64.
constexpr std::int64_t kMostLayers = 10000, kMostHeads = 4096;

}  // namespace

Architecture read_architecture(const WeightSource& source) {
  const ConfigReader config(source);
  Architecture arch;
  arch.family = config.text("model_type");
  const auto found = families().find(arch.family);
  if (found == families().end()) {
    std::string known;
    for (const auto& [name, family] : families()) known += (known.empty() ? "" : ", ") + name;
    fail(ErrorCode::kUnsupported, "{}: model_type \"{}\" is not supported (supported: {})", source.path(),
         arch.family, known);
  }
  const Family& family = found->second;
  refuse_unsupported(config, family);
  arch.names = family.names;
  arch.norm = family.norm;
  arch.activation = family.activation;
  arch.name =
      config.has("name") && config["name"].is_string() ? config.text("name") : file_stem(source.path());
  arch.layers = config.size("num_hidden_layers", kMostLayers);
  arch.model_dim = config.size("hidden_size");
  arch.heads = config.size("num_attention_heads", kMostHeads);
  arch.kv_heads =
      config.has("num_key_value_heads") ? config.size("num_key_value_heads", kMostHeads) : arch.heads;
  if (!config.has("head_dim") && arch.model_dim % arch.heads != 0) {
    fail(ErrorCode::kBadFormat, "{}: config: hidden_size {} is not a multiple of num_attention_heads {}",
         source.path(), arch.model_dim, arch.heads);
  }
  arch.head_dim = config.has("head_dim") ? config.size("head_dim") : arch.model_dim / arch.heads;
  arch.ffn_dim = config.size("intermediate_size");
  arch.vocab = config.size("vocab_size");
  arch.context = config.size("max_position_embeddings");
  arch.norm_epsilon = static_cast<float>(config.number(family.epsilon_key));
  arch.rope_theta = family.rope ? config.number("rope_theta") : 0;
  arch.tied_embeddings = config.flag("tie_word_embeddings", false);
  check_heads(arch, source.path());
  return arch;
}

std::string Architecture::shape_hash() const {
  const std::string shape = fmt::format("{} {} {} {} {} {} {} {} {}", family, layers, model_dim, heads,
                                        kv_heads, head_dim, ffn_dim, vocab, rope_theta);
  return fmt::format("{:016x}", XXH3_64bits(shape.data(), shape.size()));
}

}  // namespace winnow
