#include "formats/huggingface_source.h"

#include <filesystem>

#include "core/byte_reader.h"
#include "core/error.h"
#include "formats/hf_config.h"
#include "formats/mapped_weights.h"
#include "formats/safetensors.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

// Constants that old checkpoints carry along: the causal mask and rope's frequencies.
bool is_buffer(std::string_view name) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
         name.ends_with(".rotary_emb.inv_freq");
}

// GPT-2's linear layers are Conv1D modules, stored as [in, out].
bool is_conv1d(std::string_view name) {
  return name.ends_with(".c_attn.weight") || name.ends_with(".c_proj.weight") ||
         name.ends_with(".c_fc.weight");
}

// Gemma's norms multiply by 1 + their stored weight.
bool is_gemma_norm(const std::string& model_type, std::string_view name) {
  return model_type == "gemma3_text" && name.ends_with("norm.weight");
}

// The oldest checkpoints were saved from the bare transformer and lack its prefix.
std::string gpt2_name(const std::string& name) {
  const bool is_bare = name.starts_with("wte.") || name.starts_with("wpe.") || name.starts_with("h.") ||
                       name.starts_with("ln_f.");
  return is_bare ? "transformer." + name : name;
}

std::string folder_name(const std::string& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // it ended with a slash
  return path.filename().string();
}

class HuggingFaceSource final : public MappedWeights {
 public:
  explicit HuggingFaceSource(const std::string& folder)
      : MappedWeights(folder),
        config_file_(folder + "/config.json"),
        model_type_(load_config(folder)),
        files_(folder) {
    for (const SafetensorsTensor* tensor : files_.tensors()) {
      if (!is_buffer(tensor->name)) add_tensor(*tensor);
    }
    complete_tying();
  }

  void drop_pages() const override { files_.drop_pages(); }

 private:
  std::string load_config(const std::string& folder) {
    Json config = read_hf_config(folder);
    refuse_quantization(config);
    if (!config.contains("name")) config["name"] = folder_name(folder);
    std::string model_type = config.at("model_type").get<std::string>();
    set_config(std::move(config));
    return model_type;
  }

  // Without the key, the weights tell.
  void complete_tying() {
    if (config().contains("tie_word_embeddings")) return;
    Json completed = config();
    completed["tie_word_embeddings"] = find("lm_head.weight") == nullptr;
    set_config(std::move(completed));
  }

  void refuse_quantization(const Json& config) const {
    const auto quantization = config.find("quantization_config");
    if (quantization == config.end() || quantization->is_null()) return;
    const Json method =
        quantization->is_object() ? quantization->value("quant_method", Json("unnamed")) : Json("unnamed");
    fail(ErrorCode::kUnsupported,
         "{}: quantization_config ({}) is not supported; use the model's F32, F16 or BF16 weights, or a GGUF "
         "file",
         config_file_, printable(method.dump()));
  }

  void add_tensor(const SafetensorsTensor& tensor) {
    const bool is_gpt2 = model_type_ == "gpt2";
    std::string name = is_gpt2 ? gpt2_name(tensor.name) : tensor.name;
    if (!tensor.dtype) return add_unreadable(std::move(name), tensor.dtype_name);
    StoredTensor stored;
    stored.data = tensor.data;
    stored.info = {std::move(name), *tensor.dtype, tensor.shape};
    if (is_gemma_norm(model_type_, stored.info.name)) stored.addend = 1.0f;
    if (is_gpt2 && is_conv1d(stored.info.name) && tensor.shape.size() == 2) {
      stored.order = StoredOrder::kTransposed;
      std::swap(stored.info.shape[0], stored.info.shape[1]);
    }
    add(std::move(stored));
  }

  std::string config_file_;
  std::string model_type_;
  SafetensorsFolder files_;
};

}  // namespace

std::unique_ptr<WeightSource> make_huggingface_source(const std::string& folder) {
  return std::make_unique<HuggingFaceSource>(folder);
}

}  // namespace winnow
