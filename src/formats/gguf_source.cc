#include "formats/gguf_source.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "core/byte_reader.h"
#include "core/check.h"
#include "core/error.h"
#include "formats/dequantize.h"
#include "formats/mapped_weights.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

// Names without their ".weight" or ".bias".
struct NameRow {
  std::string_view gguf;
  std::string_view hugging_face;
};

constexpr NameRow kLlamaModel[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
constexpr NameRow kLlamaLayer[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"}};
constexpr NameRow kQwen3Layer[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"}};
constexpr NameRow kGemma3Layer[] = {{"attn_norm", "input_layernorm"},
                                    {"attn_q", "self_attn.q_proj"},
                                    {"attn_k", "self_attn.k_proj"},
                                    {"attn_v", "self_attn.v_proj"},
                                    {"attn_q_norm", "self_attn.q_norm"},
                                    {"attn_k_norm", "self_attn.k_norm"},
                                    {"attn_output", "self_attn.o_proj"},
                                    {"post_attention_norm", "post_attention_layernorm"},
                                    {"ffn_norm", "pre_feedforward_layernorm"},
                                    {"post_ffw_norm", "post_feedforward_layernorm"},
                                    {"ffn_gate", "mlp.gate_proj"},
                                    {"ffn_up", "mlp.up_proj"},
                                    {"ffn_down", "mlp.down_proj"}};
constexpr NameRow kGpt2Model[] = {{"token_embd", "transformer.wte"},
                                  {"position_embd", "transformer.wpe"},
                                  {"output_norm", "transformer.ln_f"},
                                  {"output", "lm_head"}};
constexpr NameRow kGpt2Layer[] = {{"attn_norm", "ln_1"},          {"attn_qkv", "attn.c_attn"},
                                  {"attn_output", "attn.c_proj"}, {"ffn_norm", "ln_2"},
                                  {"ffn_up", "mlp.c_fc"},         {"ffn_down", "mlp.c_proj"}};

// What is particular to one general.architecture.
struct Architecture {
  std::string_view name;
  const char* model_type;  // Hugging Face's
  std::span<const NameRow> model_names;
  std::span<const NameRow> layer_names;
  std::string_view layer_prefix;  // what Hugging Face writes before the layer's number
  std::string_view epsilon_key;   // in the file, after "<architecture>."
  const char* epsilon_name;       // in the config
  const char* hidden_act;
  bool has_rope;
  bool has_interleaved_heads;  // q and k rows reordered by the converter
};

constexpr std::string_view kRmsEpsilon = "attention.layer_norm_rms_epsilon";
constexpr std::string_view kLayerEpsilon = "attention.layer_norm_epsilon";
constexpr std::string_view kGemma3 = "gemma3";

constexpr Architecture kArchitectures[] = {
    {"llama", "llama", kLlamaModel, kLlamaLayer, "model.layers.", kRmsEpsilon, "rms_norm_eps", "silu",
     /*has_rope=*/true, /*has_interleaved_heads=*/true},
    {"qwen2", "qwen2", kLlamaModel, kLlamaLayer, "model.layers.", kRmsEpsilon, "rms_norm_eps", "silu",
     /*has_rope=*/true, /*has_interleaved_heads=*/false},
    {"qwen3", "qwen3", kLlamaModel, kQwen3Layer, "model.layers.", kRmsEpsilon, "rms_norm_eps", "silu",
     /*has_rope=*/true, /*has_interleaved_heads=*/false},
    {"stablelm", "stablelm", kLlamaModel, kLlamaLayer, "model.layers.", kLayerEpsilon, "layer_norm_eps",
     "silu",
     /*has_rope=*/true, /*has_interleaved_heads=*/false},
    {kGemma3, "gemma3_text", kLlamaModel, kGemma3Layer, "model.layers.", kRmsEpsilon, "rms_norm_eps",
     "gelu_pytorch_tanh",
     /*has_rope=*/true, /*has_interleaved_heads=*/false},
    {"gpt2", "gpt2", kGpt2Model, kGpt2Layer, "transformer.h.", kLayerEpsilon, "layer_norm_epsilon",
     "gelu_new",
     /*has_rope=*/false, /*has_interleaved_heads=*/false},
};

// Rope's divisors of each frequency, a tensor in files of models with "llama3" scaling.
constexpr std::string_view kFrequencyFactors = "rope_freqs.weight";

const Architecture& find_architecture(const GgufFile& file) {
  const std::string_view name = file.string("general.architecture");
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.name);
  }
  fail(ErrorCode::kUnsupported, "{}: general.architecture {} is not supported; winnow runs {}", file.path(),
       printable(name), known);
}

const NameRow* find_row(std::span<const NameRow> rows, std::string_view gguf) {
  const auto found =
      std::find_if(rows.begin(), rows.end(), [&](const NameRow& row) { return row.gguf == gguf; });
  return found == rows.end() ? nullptr : &*found;
}

// Hugging Face's name of a tensor; empty when the architecture has no such tensor.
std::string translate_name(const Architecture& architecture, std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {};
  const std::string_view suffix = name.substr(dot);
  std::string_view base = name.substr(0, dot);
  if (suffix != ".weight" && suffix != ".bias") return {};
  if (!base.starts_with("blk.")) {
    const NameRow* row = find_row(architecture.model_names, base);
    return row == nullptr ? std::string() : fmt::format("{}{}", row->hugging_face, suffix);
  }
  base.remove_prefix(4);
  std::uint32_t layer = 0;
  const auto [end, error] = std::from_chars(base.data(), base.data() + base.size(), layer);
  if (error != std::errc()) return {};
  const auto digits = static_cast<std::size_t>(end - base.data());
  if (fmt::format("{}.", layer) != base.substr(0, digits + 1)) return {};  // no second spelling of a number
  const NameRow* row = find_row(architecture.layer_names, base.substr(digits + 1));
  if (row == nullptr) return {};
  return fmt::format("{}{}.{}{}", architecture.layer_prefix, layer, row->hugging_face, suffix);
}

// Text of the file as a JSON string; bytes that are not UTF-8, which JSON cannot hold, become U+FFFD.
Json json_text(std::string_view text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
}

// Settings that change the computation and that no supported architecture has, with the value that means off.
struct Refused {
  std::string_view key;
  double off;
};
constexpr Refused kRefused[] = {{"expert_count", 0},
                                {"attn_logit_softcapping", 0},
                                {"attention.scale", 0},
                                {"logit_scale", 0},
                                {"embedding_scale", 0},
                                {"residual_scale", 0},
                                {"rope.scaling.alpha", 0},
                                {"rope.scaling.yarn_log_multiplier", 0},
                                {"rope.scaling.yarn_ext_factor", 1},
                                {"rope.scaling.yarn_attn_factor", 1}};

class GgufSource final : public MappedWeights {
 public:
  explicit GgufSource(std::vector<GgufFile> parts)
      : MappedWeights(parts.front().path()),
        parts_(std::move(parts)),
        file_(parts_.front()),
        architecture_(find_architecture(file_)) {
    refuse_unsupported();
    set_config(translate_config());
    for (const GgufFile& part : parts_) {
      for (const GgufTensor& tensor : part.tensors()) add_tensor(tensor);
    }
  }

  void drop_pages() const override {
    for (const GgufFile& part : parts_) part.drop_pages();
  }

 private:
  std::string key(std::string_view name) const { return fmt::format("{}.{}", architecture_.name, name); }
  const GgufTensor* find_tensor(std::string_view name) const;
  void refuse_unsupported() const;
  Json translate_config() const;
  std::int64_t vocab_size() const;
  void add_sliding_window(Json& config) const;
  void add_gemma3_keys(Json& config) const;
  void add_rope_keys(Json& config) const;
  Json rope_scaling() const;
  Json frequency_factors(const GgufTensor& tensor) const;
  void add_tensor(const GgufTensor& tensor);
  std::int64_t interleaved_head_dim(const GgufTensor& tensor) const;

  std::vector<GgufFile> parts_;
  const GgufFile& file_;  // the part with the metadata
  const Architecture& architecture_;
};

const GgufTensor* GgufSource::find_tensor(std::string_view name) const {
  for (const GgufFile& part : parts_) {
    if (const GgufTensor* tensor = part.find_tensor(name)) return tensor;
  }
  return nullptr;
}

void GgufSource::refuse_unsupported() const {
  for (const Refused& refused : kRefused) {
    const auto value = file_.find_number(key(refused.key));
    if (!value || *value == refused.off) continue;
    fail(ErrorCode::kUnsupported, "{}: {} is {}, which is not supported{}", path(), key(refused.key), *value,
         refused.key == "expert_count" ? ": mixtures of experts are not; use a dense model" : "");
  }
  if (file_.find_boolean(key("use_parallel_residual")).value_or(false)) {
    fail(ErrorCode::kUnsupported, "{}: {} is true, which is not supported", path(),
         key("use_parallel_residual"));
  }
}

Json GgufSource::translate_config() const {
  Json config;
  const std::int64_t hidden = file_.integer(key("embedding_length"));
  const std::int64_t heads = file_.integer(key("attention.head_count"));
  config["model_type"] = architecture_.model_type;
  const std::string stem = std::filesystem::path(path()).stem().string();
  config["name"] = json_text(file_.find_string("general.name").value_or(stem));
  config["hidden_size"] = hidden;
  config["num_hidden_layers"] = file_.integer(key("block_count"));
  config["num_attention_heads"] = heads;
  config["num_key_value_heads"] = file_.find_integer(key("attention.head_count_kv")).value_or(heads);
  config["intermediate_size"] = file_.integer(key("feed_forward_length"));
  config["max_position_embeddings"] = file_.integer(key("context_length"));
  config["vocab_size"] = vocab_size();
  config["tie_word_embeddings"] = find_tensor("output.weight") == nullptr;
  config["hidden_act"] = architecture_.hidden_act;
  config[architecture_.epsilon_name] = file_.number(key(architecture_.epsilon_key));
  const auto key_length = file_.find_integer(key("attention.key_length"));
  const auto value_length = file_.find_integer(key("attention.value_length"));
  if (key_length) {
    config["head_dim"] = *key_length;
  } else if (heads > 0 && hidden % heads == 0) {
    config["head_dim"] = hidden / heads;
  }
  if (value_length && config.contains("head_dim") && config["head_dim"] != *value_length) {
    fail(ErrorCode::kUnsupported, "{}: {} is {}, but keys have {}: only heads of one size are supported",
         path(), key("attention.value_length"), *value_length, config["head_dim"].dump());
  }
  if (const auto cap = file_.find_number(key("final_logit_softcapping"))) {
    if (*cap != 0) config["final_logit_softcapping"] = *cap;
  }
  add_sliding_window(config);
  if (architecture_.name == kGemma3) add_gemma3_keys(config);
  if (architecture_.has_rope) add_rope_keys(config);
  return config;
}

std::int64_t GgufSource::vocab_size() const {
  if (const auto size = file_.find_integer(key("vocab_size"))) return *size;
  const GgufTensor* embedding = find_tensor("token_embd.weight");
  return embedding != nullptr ? embedding->shape[0] : file_.integer(key("vocab_size"));
}

// 0 stands for none. Of Hugging Face's llama-like models it is Mistral whose layers all have a window; which
// layers of the other architectures would have one, the file does not say.
void GgufSource::add_sliding_window(Json& config) const {
  const std::int64_t window = file_.find_integer(key("attention.sliding_window")).value_or(0);
  if (architecture_.name == kGemma3) config["sliding_window"] = window != 0 ? Json(window) : Json(nullptr);
  if (window == 0 || architecture_.name == kGemma3) return;
  if (architecture_.name != "llama") {
    fail(ErrorCode::kUnsupported, "{}: {} is {}, which is not supported for {}", path(),
         key("attention.sliding_window"), window, architecture_.name);
  }
  config["model_type"] = "mistral";
  config["sliding_window"] = window;
}

// llama.cpp fixes what the file does not say: every sixth layer is global, and the largest model (62 layers)
// scales queries by model_dim / heads, all others by their heads' size.
void GgufSource::add_gemma3_keys(Json& config) const {
  constexpr std::int64_t kLayersOfTheLargest = 62;
  config["sliding_window_pattern"] = file_.find_integer(key("attention.sliding_window_pattern")).value_or(6);
  config["rope_local_base_freq"] = file_.find_number(key("rope.freq_base_swa")).value_or(10000.0);
  const auto hidden = config["hidden_size"].get<std::int64_t>();
  const auto heads = config["num_attention_heads"].get<std::int64_t>();
  if (config["num_hidden_layers"] == kLayersOfTheLargest && heads > 0) {
    config["query_pre_attn_scalar"] = hidden / heads;
  } else if (config.contains("head_dim")) {
    config["query_pre_attn_scalar"] = config["head_dim"];
  }
}

void GgufSource::add_rope_keys(Json& config) const {
  config["rope_theta"] =
      file_.find_number(key("rope.freq_base")).value_or(architecture_.name == kGemma3 ? 1e6 : 10000.0);
  Json scaling = rope_scaling();
  if (!scaling.is_null()) config["rope_scaling"] = std::move(scaling);
  const auto rotated = file_.find_integer(key("rope.dimension_count"));
  if (!rotated || !config.contains("head_dim") || config["head_dim"] == *rotated || config["head_dim"] == 0)
    return;
  if (architecture_.has_interleaved_heads) {
    // The converter interleaves whole heads, so the first dimensions of the file are not the model's first.
    fail(ErrorCode::kUnsupported,
         "{}: {} is {}, but heads have {} dimensions: partial rotary embeddings are "
         "not supported for {}",
         path(), key("rope.dimension_count"), *rotated, config["head_dim"].dump(), architecture_.name);
  }
  config["partial_rotary_factor"] = static_cast<double>(*rotated) / config["head_dim"].get<double>();
}

// null when positions are not scaled. llama.cpp's attn_factor multiplies YaRN's own factor, which Hugging
// Face's attention_factor replaces.
Json GgufSource::rope_scaling() const {
  std::optional<double> factor = file_.find_number(key("rope.scaling.factor"));
  if (!factor) factor = file_.find_number(key("rope.scale_linear"));  // its name in older files
  const std::string_view type =
      file_.find_string(key("rope.scaling.type")).value_or(factor ? "linear" : "none");
  if (const GgufTensor* factors = find_tensor(kFrequencyFactors)) {
    Json by_frequency = frequency_factors(*factors);
    if (!by_frequency.is_null() && type != "none") {
      fail(ErrorCode::kUnsupported, "{}: {} is {} beside the tensor {}: only one way of scaling is supported",
           path(), key("rope.scaling.type"), printable(type), kFrequencyFactors);
    }
    if (!by_frequency.is_null()) return by_frequency;
  }
  if (type == "none") return nullptr;
  Json scaling = {{"rope_type", json_text(type)}};
  if (factor) scaling["factor"] = *factor;
  const auto attention = file_.find_number(key("rope.scaling.attn_factor"));
  if (type == "linear") {
    if (attention && *attention != 1.0) scaling["attention_factor"] = *attention;  // refused by the model
    return scaling;
  }
  if (const auto length = file_.find_integer(key("rope.scaling.original_context_length"))) {
    scaling["original_max_position_embeddings"] = *length;
  }
  if (attention) {
    const double own = factor && *factor > 1 ? 0.1 * std::log(*factor) + 1.0 : 1.0;
    scaling["attention_factor"] = *attention * own;
  }
  for (const char* beta : {"beta_fast", "beta_slow"}) {
    if (const auto value = file_.find_number(key(fmt::format("rope.scaling.yarn_{}", beta))))
      scaling[beta] = *value;
  }
  return scaling;
}

// The converter replaced the parameters of "llama3" scaling by what they make of each frequency. Hugging Face
// has no name for that, so it gets one here.
Json GgufSource::frequency_factors(const GgufTensor& tensor) const {
  std::int64_t count = 1;
  for (const std::int64_t extent : tensor.shape) count *= extent;
  constexpr std::int64_t kMaxFactors = 1024;  // half a head
  if (count > kMaxFactors) {
    fail(ErrorCode::kBadFormat, "{}: tensor {} has {} elements; half a head's size is expected", path(),
         tensor.name, count);
  }
  std::vector<float> factors(static_cast<std::size_t>(count));
  dequantize(tensor.dtype, tensor.data, factors);
  if (std::all_of(factors.begin(), factors.end(), [](float factor) { return factor == 1.0f; }))
    return nullptr;
  return {{"rope_type", "frequency_factors"}, {"factors", factors}};
}

void GgufSource::add_tensor(const GgufTensor& tensor) {
  if (tensor.name == kFrequencyFactors) return;
  StoredTensor stored;
  stored.info = {translate_name(architecture_, tensor.name), tensor.dtype, tensor.shape};
  stored.data = tensor.data;
  if (stored.info.name.empty()) {
    fail(ErrorCode::kUnsupported,
         "{}: tensor {} is not part of the architecture {} as winnow knows it; without it the results would "
         "be wrong",
         path(), printable(tensor.name), architecture_.name);
  }
  stored.head_dim = interleaved_head_dim(tensor);
  if (stored.head_dim != 0) stored.order = StoredOrder::kInterleavedHeads;
  add(std::move(stored));
}

// 0 for tensors whose rows are in order.
std::int64_t GgufSource::interleaved_head_dim(const GgufTensor& tensor) const {
  if (!architecture_.has_interleaved_heads) return 0;
  const bool is_query = tensor.name.find(".attn_q.") != std::string_view::npos;
  const bool is_key = tensor.name.find(".attn_k.") != std::string_view::npos;
  if (!is_query && !is_key) return 0;
  const auto heads =
      config().at(is_query ? "num_attention_heads" : "num_key_value_heads").get<std::int64_t>();
  const std::int64_t rows = tensor.shape[0];
  if (tensor.shape.size() > 2 || heads <= 0 || rows % heads != 0 || rows / heads % 2 != 0) {
    fail(ErrorCode::kBadFormat, "{}: tensor {}: its {} rows do not divide into {} heads of an even size",
         path(), printable(tensor.name), rows, heads);
  }
  return rows / heads;
}

}  // namespace

std::unique_ptr<WeightSource> make_gguf_source(GgufFile file) {
  std::vector<GgufFile> parts;
  parts.push_back(std::move(file));
  return make_gguf_source(std::move(parts));
}

std::unique_ptr<WeightSource> make_gguf_source(std::vector<GgufFile> parts) {
  check(!parts.empty(), "a model has at least one file");
  return std::make_unique<GgufSource>(std::move(parts));
}

}  // namespace winnow
