#include "formats/gguf_source.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "core/byte_reader.h"
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
constexpr NameRow kGpt2Model[] = {{"token_embd", "transformer.wte"},
                                  {"position_embd", "transformer.wpe"},
                                  {"output_norm", "transformer.ln_f"},
                                  {"output", "lm_head"}};
constexpr NameRow kGpt2Layer[] = {{"attn_norm", "ln_1"},          {"attn_qkv", "attn.c_attn"},
                                  {"attn_output", "attn.c_proj"}, {"ffn_norm", "ln_2"},
                                  {"ffn_up", "mlp.c_fc"},         {"ffn_down", "mlp.c_proj"}};

// What is particular to one general.architecture; its name is also Hugging Face's model_type.
struct Architecture {
  std::string_view name;
  std::span<const NameRow> model_names;
  std::span<const NameRow> layer_names;
  std::string_view layer_prefix;  // what Hugging Face writes before the layer's number
  std::string_view epsilon_key;   // in the file, after "<architecture>."
  const char* epsilon_name;       // in the config
  const char* hidden_act;
  bool has_rope;
  bool has_interleaved_heads;  // q and k rows reordered by the converter
};

constexpr Architecture kArchitectures[] = {
    {"llama", kLlamaModel, kLlamaLayer, "model.layers.", "attention.layer_norm_rms_epsilon", "rms_norm_eps",
     "silu",
     /*has_rope=*/true, /*has_interleaved_heads=*/true},
    {"qwen2", kLlamaModel, kLlamaLayer, "model.layers.", "attention.layer_norm_rms_epsilon", "rms_norm_eps",
     "silu",
     /*has_rope=*/true, /*has_interleaved_heads=*/false},
    {"gpt2", kGpt2Model, kGpt2Layer, "transformer.h.", "attention.layer_norm_epsilon", "layer_norm_epsilon",
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

class GgufSource final : public MappedWeights {
 public:
  explicit GgufSource(GgufFile file)
      : MappedWeights(file.path()), file_(std::move(file)), architecture_(find_architecture(file_)) {
    refuse_experts();
    set_config(translate_config());
    for (const GgufTensor& tensor : file_.tensors()) add_tensor(tensor);
  }

  void drop_pages() const override { file_.drop_pages(); }

 private:
  std::string key(std::string_view name) const { return fmt::format("{}.{}", architecture_.name, name); }
  void refuse_experts() const;
  Json translate_config() const;
  std::int64_t vocab_size() const;
  Json rope_scaling() const;
  Json frequency_factors(const GgufTensor& tensor) const;
  void add_tensor(const GgufTensor& tensor);
  std::int64_t interleaved_head_dim(const GgufTensor& tensor) const;

  GgufFile file_;
  const Architecture& architecture_;
};

void GgufSource::refuse_experts() const {
  const std::int64_t experts = file_.find_integer(key("expert_count")).value_or(0);
  if (experts != 0) {
    fail(ErrorCode::kUnsupported, "{}: {} is {}: mixtures of experts are not supported; use a dense model",
         path(), key("expert_count"), experts);
  }
}

Json GgufSource::translate_config() const {
  Json config;
  const std::int64_t hidden = file_.integer(key("embedding_length"));
  const std::int64_t heads = file_.integer(key("attention.head_count"));
  config["model_type"] = architecture_.name;
  const std::string stem = std::filesystem::path(path()).stem().string();
  config["name"] = json_text(file_.find_string("general.name").value_or(stem));
  config["hidden_size"] = hidden;
  config["num_hidden_layers"] = file_.integer(key("block_count"));
  config["num_attention_heads"] = heads;
  config["num_key_value_heads"] = file_.find_integer(key("attention.head_count_kv")).value_or(heads);
  config["intermediate_size"] = file_.integer(key("feed_forward_length"));
  config["max_position_embeddings"] = file_.integer(key("context_length"));
  config["vocab_size"] = vocab_size();
  config["tie_word_embeddings"] = file_.find_tensor("output.weight") == nullptr;
  config["hidden_act"] = architecture_.hidden_act;
  config[architecture_.epsilon_name] = file_.number(key(architecture_.epsilon_key));
  if (const auto head_dim = file_.find_integer(key("attention.key_length"))) {
    config["head_dim"] = *head_dim;
  } else if (heads > 0 && hidden % heads == 0) {
    config["head_dim"] = hidden / heads;
  }
  if (const auto window = file_.find_integer(key("attention.sliding_window")))
    config["sliding_window"] = *window;
  if (!architecture_.has_rope) return config;

  config["rope_theta"] = file_.find_number(key("rope.freq_base")).value_or(10000.0);
  Json scaling = rope_scaling();
  if (!scaling.is_null()) config["rope_scaling"] = std::move(scaling);
  const auto rotated = file_.find_integer(key("rope.dimension_count"));
  if (rotated && config.contains("head_dim") && config["head_dim"] != *rotated && config["head_dim"] != 0) {
    config["partial_rotary_factor"] = static_cast<double>(*rotated) / config["head_dim"].get<double>();
  }
  return config;
}

std::int64_t GgufSource::vocab_size() const {
  if (const auto size = file_.find_integer(key("vocab_size"))) return *size;
  const GgufTensor* embedding = file_.find_tensor("token_embd.weight");
  return embedding != nullptr ? embedding->shape[0] : file_.integer(key("vocab_size"));
}

// null when positions are not scaled.
Json GgufSource::rope_scaling() const {
  if (const GgufTensor* factors = file_.find_tensor(kFrequencyFactors)) return frequency_factors(*factors);
  std::optional<double> factor = file_.find_number(key("rope.scaling.factor"));
  if (!factor) factor = file_.find_number(key("rope.scale_linear"));  // its name in older files
  const std::string_view type =
      file_.find_string(key("rope.scaling.type")).value_or(factor ? "linear" : "none");
  if (type == "none") return nullptr;
  Json scaling = {{"rope_type", json_text(type)}};
  if (factor) scaling["factor"] = *factor;
  if (const auto length = file_.find_integer(key("rope.scaling.original_context_length"))) {
    scaling["original_max_position_embeddings"] = *length;
  }
  if (const auto attention = file_.find_number(key("rope.scaling.attn_factor"))) {
    scaling["attention_factor"] = *attention;
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
  return std::make_unique<GgufSource>(std::move(file));
}

}  // namespace winnow
