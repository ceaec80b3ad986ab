#include "model/random_weights.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/error.h"
#include "core/uniform.h"

namespace winnow {
namespace {

struct Shape {
  const char* name;
  const char* family;
  std::int64_t layers, model_dim, heads, kv_heads, head_dim, ffn_dim, vocab, context;
  double rope_theta;
  bool tied, qkv_bias;
};

constexpr std::array kShapes{
    Shape{"smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, 1e5, true, false},
    Shape{"qwen2-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e6, true, true},
    Shape{"qwen2-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, 32768, 1e6, true, true},
    Shape{"qwen2-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 131072, 1e6, false, true},
    Shape{"mistral-7b", "mistral", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1e6, false, false},
    Shape{"llama3-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 5e5, false, false},
    Shape{"llama3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, true, false},
};

class RandomWeights final : public WeightSource {
 public:
  RandomWeights(const Shape& shape, std::uint64_t seed)
      : path_(fmt::format("random weights {} (seed {})", shape.name, seed)), seed_(seed) {
    config_ = {{"model_type", shape.family},
               {"name", fmt::format("random-{}", shape.name)},
               {"num_hidden_layers", shape.layers},
               {"hidden_size", shape.model_dim},
               {"num_attention_heads", shape.heads},
               {"num_key_value_heads", shape.kv_heads},
               {"head_dim", shape.head_dim},
               {"intermediate_size", shape.ffn_dim},
               {"vocab_size", shape.vocab},
               {"max_position_embeddings", shape.context},
               {"rms_norm_eps", 1e-6},
               {"rope_theta", shape.rope_theta},
               {"tie_word_embeddings", shape.tied},
               {"hidden_act", "silu"}};
    add("model.embed_tokens.weight", {shape.vocab, shape.model_dim});
    add("model.norm.weight", {shape.model_dim});
    if (!shape.tied) add("lm_head.weight", {shape.vocab, shape.model_dim});
    for (std::int64_t layer = 0; layer < shape.layers; ++layer)
      add_layer(fmt::format("model.layers.{}.", layer), shape);
  }

  const std::string& path() const override { return path_; }
  const nlohmann::json& config() const override { return config_; }
  const TensorInfo* find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }
  std::vector<TensorInfo> tensors() const override {
    std::vector<TensorInfo> all;
    for (const auto& [name, tensor] : tensors_) all.push_back(tensor);
    return all;
  }
  std::int64_t weight_bytes() const override { return 0; }
  std::uint64_t content_hash() const override { return XXH64(path_.data(), path_.size(), 0); }

  // Norms are 1, biases 0, matrices uniform with the variance 1 / in_features that keeps activations in
  // range.
  void read_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                 std::span<float> out) const override {
    const std::int64_t cols = tensor.shape.back();
    check(static_cast<std::int64_t>(out.size()) == (end - begin) * cols, "read_rows: wrong size");
    if (tensor.shape.size() == 1) {
      std::fill(out.begin(), out.end(), tensor.name.ends_with("bias") ? 0.0f : 1.0f);
      return;
    }
    const Noise noise = *this->noise(tensor);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = noise.scale * uniform(noise.stream, static_cast<std::uint64_t>(begin * cols) + i);
    }
  }
  std::optional<Noise> noise(const TensorInfo& tensor) const override {
    if (tensor.shape.size() == 1) return std::nullopt;
    return Noise{XXH64(tensor.name.data(), tensor.name.size(), seed_),
                 std::sqrt(3.0f / static_cast<float>(tensor.shape.back()))};
  }

 private:
  void add(const std::string& name, std::vector<std::int64_t> shape) {
    tensors_.emplace(name, TensorInfo{name, DType::kF32, std::move(shape)});
  }
  void add_layer(const std::string& prefix, const Shape& shape) {
    const std::int64_t q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
    add(prefix + "input_layernorm.weight", {shape.model_dim});
    add(prefix + "post_attention_layernorm.weight", {shape.model_dim});
    for (const auto& [part, rows] : {std::pair{"q", q}, std::pair{"k", kv}, std::pair{"v", kv}}) {
      add(fmt::format("{}self_attn.{}_proj.weight", prefix, part), {rows, shape.model_dim});
      if (shape.qkv_bias) add(fmt::format("{}self_attn.{}_proj.bias", prefix, part), {rows});
    }
    add(prefix + "self_attn.o_proj.weight", {shape.model_dim, q});
    add(prefix + "mlp.gate_proj.weight", {shape.ffn_dim, shape.model_dim});
    add(prefix + "mlp.up_proj.weight", {shape.ffn_dim, shape.model_dim});
    add(prefix + "mlp.down_proj.weight", {shape.model_dim, shape.ffn_dim});
  }

  std::string path_;
  std::uint64_t seed_;
  nlohmann::json config_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
};

}  // namespace

std::unique_ptr<WeightSource> make_random_weights(const std::string& shape, std::uint64_t seed) {
  std::string known;
  for (const Shape& candidate : kShapes) {
    if (shape == candidate.name) return std::make_unique<RandomWeights>(candidate, seed);
    known += fmt::format("{}{}", known.empty() ? "" : ", ", candidate.name);
  }
  fail(ErrorCode::kBadArgument, "--random-weights {}: unknown shape (known: {})", shape, known);
}

}  // namespace winnow
