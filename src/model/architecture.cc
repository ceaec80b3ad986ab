#include "model/architecture.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "model/config_reader.h"
#include "model/rope_config.h"

namespace winnow {
namespace {

using nlohmann::json;

// Which layers have a sliding window when layer_types does not say it.
enum class SlidingRule : std::uint8_t {
  kNone,         // the family has none
  kAll,          // all, if sliding_window is set (Mistral)
  kFromLayer,    // from max_window_layers on, if use_sliding_window (Qwen)
  kAllButEvery,  // all but every sliding_window_pattern-th (Gemma 3)
};

// What a family fixes; sizes come from the config.
struct Family {
  TensorNames names;
  NormKind norm;
  ActivationKind activation;
  bool rope;
  const char* epsilon_key;
  const char* hidden_act;  // the one activation the family is published with
  SlidingRule sliding;
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
          .down = layer + "mlp.down_proj.weight",
          .q_norm = "",
          .k_norm = "",
          .attention_post_norm = "",
          .ffn_post_norm = ""};
}

TensorNames qwen3_names() {
  TensorNames names = llama_names();
  names.q_norm = "model.layers.{}.self_attn.q_norm.weight";
  names.k_norm = "model.layers.{}.self_attn.k_norm.weight";
  return names;
}

TensorNames gemma3_names() {
  TensorNames names = qwen3_names();
  names.attention_post_norm = "model.layers.{}.post_attention_layernorm.weight";
  names.ffn_norm = "model.layers.{}.pre_feedforward_layernorm.weight";
  names.ffn_post_norm = "model.layers.{}.post_feedforward_layernorm.weight";
  return names;
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
          .down = layer + "mlp.c_proj.weight",
          .q_norm = "",
          .k_norm = "",
          .attention_post_norm = "",
          .ffn_post_norm = ""};
}

const std::map<std::string, Family>& families() {
  constexpr auto kRms = NormKind::kRms, kLayer = NormKind::kLayer;
  constexpr auto kSilu = ActivationKind::kSiluGated;
  static const std::map<std::string, Family> table{
      {"llama", {llama_names(), kRms, kSilu, true, "rms_norm_eps", "silu", SlidingRule::kNone}},
      {"mistral", {llama_names(), kRms, kSilu, true, "rms_norm_eps", "silu", SlidingRule::kAll}},
      {"qwen2", {llama_names(), kRms, kSilu, true, "rms_norm_eps", "silu", SlidingRule::kFromLayer}},
      {"qwen3", {qwen3_names(), kRms, kSilu, true, "rms_norm_eps", "silu", SlidingRule::kFromLayer}},
      {"stablelm", {llama_names(), kLayer, kSilu, true, "layer_norm_eps", "silu", SlidingRule::kNone}},
      {"gemma3_text",
       {gemma3_names(), kRms, ActivationKind::kGeluTanhGated, true, "rms_norm_eps", "gelu_pytorch_tanh",
        SlidingRule::kAllButEvery}},
      {"gpt2",
       {gpt2_names(), kLayer, ActivationKind::kGeluTanh, false, "layer_norm_epsilon", "gelu_new",
        SlidingRule::kNone}},
  };
  return table;
}

// Values that change the computation in ways winnow does not do: an error, never a silent default.
void refuse_unsupported(const ConfigReader& config, const Family& family) {
  if (config.has("hidden_act") && config["hidden_act"] != family.hidden_act) {
    config.unsupported("hidden_act", fmt::format("this family needs {}", family.hidden_act));
  }
  for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping"}) {
    if (config.has(key)) config.unsupported(key, "logits are not capped");
  }
  for (const char* key : {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention",
                          "use_parallel_residual", "qk_layernorm", "use_bidirectional_attention"}) {
    if (config.flag(key, false)) config.unsupported(key, "only false is");
  }
  if (!config.flag("scale_attn_weights", true)) config.unsupported("scale_attn_weights", "only true is");
  if (config.has("rope_local_scaling")) {
    config.unsupported("rope_local_scaling", "frequencies of sliding layers cannot be scaled");
  }
}

std::vector<bool> listed_sliding_layers(const ConfigReader& config, std::int64_t layers) {
  const json& types = config["layer_types"];
  if (!types.is_array() || static_cast<std::int64_t>(types.size()) != layers) {
    config.bad("layer_types", fmt::format("is no list of {} layers", layers));
  }
  std::vector<bool> sliding;
  for (const json& type : types) {
    if (type != "full_attention" && type != "sliding_attention") {
      config.unsupported("layer_types", "only full_attention and sliding_attention are");
    }
    sliding.push_back(type == "sliding_attention");
  }
  return sliding;
}

// Layers before it are global; 28 of them when the key is missing, as in transformers.
std::int64_t max_window_layers(const ConfigReader& config) {
  constexpr const char* kKey = "max_window_layers";
  if (!config.has(kKey)) return 28;
  return config[kKey] == 0 ? 0 : config.size(kKey);
}

// Of layers whose types are not listed.
std::vector<bool> ruled_sliding_layers(const ConfigReader& config, SlidingRule rule, std::int64_t layers) {
  std::vector<bool> sliding(static_cast<std::size_t>(layers), rule == SlidingRule::kAll);
  if (rule == SlidingRule::kFromLayer) {
    for (std::int64_t layer = max_window_layers(config); layer < layers; ++layer) sliding[layer] = true;
  }
  if (rule == SlidingRule::kAllButEvery) {
    const std::int64_t every = config.size("sliding_window_pattern");
    for (std::int64_t layer = 0; layer < layers; ++layer) sliding[layer] = (layer + 1) % every != 0;
  }
  return sliding;
}

void read_sliding_window(const ConfigReader& config, SlidingRule rule, Architecture& arch) {
  const bool is_used = config.has("sliding_window") &&
                       (rule != SlidingRule::kFromLayer || config.flag("use_sliding_window", false));
  if (is_used && rule == SlidingRule::kNone) {
    config.unsupported("sliding_window", fmt::format("{} has none", arch.family));
  }
  std::vector<bool> sliding;
  if (config.has("layer_types")) {
    sliding = listed_sliding_layers(config, arch.layers);
  } else if (is_used) {
    sliding = ruled_sliding_layers(config, rule, arch.layers);
  }
  if (std::find(sliding.begin(), sliding.end(), true) == sliding.end()) return;
  if (!is_used) config.unsupported("layer_types", "sliding_attention needs a sliding_window that is used");
  arch.sliding_window = config.size("sliding_window");
  arch.sliding_layers = std::move(sliding);
}

void read_rope(const ConfigReader& config, const Family& family, Architecture& arch) {
  if (!family.rope) return;
  arch.rope_theta = config.number("rope_theta");
  if (arch.rope_theta <= 1)
    config.bad("rope_theta", fmt::format("is {}, expected more than 1", arch.rope_theta));
  const double share = config.number("partial_rotary_factor", 1.0);
  arch.rotary_dim = static_cast<std::int64_t>(static_cast<double>(arch.head_dim) * share);
  if (share > 1 || arch.rotary_dim % 2 != 0 || arch.rotary_dim == 0) {
    fail(ErrorCode::kBadFormat,
         "{}: config: head_dim {} with partial_rotary_factor {} makes {} rotary dimensions, expected an even "
         "number",
         config.path(), arch.head_dim, share, arch.rotary_dim);
  }
  arch.rope_scaling = read_rope_scaling(config, arch.rotary_dim);
  if (arch.rope_scaling.kind == RopeScalingKind::kDynamic) {
    if (arch.rotary_dim <= 2)
      config.unsupported("rope_scaling", "dynamic scaling needs more than 2 rotary dimensions");
    const double context = static_cast<double>(arch.context) * arch.rope_scaling.factor;
    if (context > 1e9)
      config.bad("rope_scaling", fmt::format("stretches the context to {:.0f} positions", context));
    arch.context = static_cast<std::int64_t>(context);
  }
  if (arch.sliding_window > 0 && config.has("rope_local_base_freq")) {
    arch.sliding_rope_theta = config.number("rope_local_base_freq");
  }
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
  const ConfigReader config(source.path(), source.config());
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
  arch.tied_embeddings = config.flag("tie_word_embeddings", false);
  check_heads(arch, source.path());
  arch.scaled_embeddings = arch.family == "gemma3_text";
  const double score_dim = arch.family == "gemma3_text" ? config.number("query_pre_attn_scalar")
                                                        : static_cast<double>(arch.head_dim);
  arch.attention_scale = static_cast<float>(1.0 / std::sqrt(score_dim));
  read_sliding_window(config, family.sliding, arch);
  read_rope(config, family, arch);
  return arch;
}

std::string Architecture::shape_hash() const {
  const std::string shape = fmt::format("{} {} {} {} {} {} {} {} {}", family, layers, model_dim, heads,
                                        kv_heads, head_dim, ffn_dim, vocab, rope_theta);
  return fmt::format("{:016x}", XXH3_64bits(shape.data(), shape.size()));
}

}  // namespace winnow
