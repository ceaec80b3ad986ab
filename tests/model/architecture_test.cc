// What read_architecture() and load_weights() refuse, and how they say it.
#include "model/architecture.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "formats/hf_config.h"
#include "model/weights.h"
#include "support/format_testing.h"

namespace winnow {
namespace {

using nlohmann::json;

// The tiny golden model with an edited config, or with a tensor taken away or reshaped.
class EditedSource final : public WeightSource {
 public:
  explicit EditedSource(const std::string& model = "tiny-llama")
      : base_(open_weights(WINNOW_TEST_DATA "/models/" + model)), edited(base_->config()) {}

  const std::string& path() const override { return base_->path(); }
  const json& config() const override { return edited; }
  const TensorInfo* find(std::string_view name) const override {
    if (name == missing) return nullptr;
    if (name == reshaped.name) return &reshaped;
    return base_->find(name);
  }
  std::vector<TensorInfo> tensors() const override { return base_->tensors(); }
  void read_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                 std::span<float> out) const override {
    base_->read_rows(tensor, begin, end, out);
  }
  std::int64_t weight_bytes() const override { return base_->weight_bytes(); }
  std::uint64_t content_hash() const override { return base_->content_hash(); }

 private:
  std::unique_ptr<WeightSource> base_;

 public:
  json edited;
  std::string missing;
  TensorInfo reshaped{};
};

struct Refusal {
  const char* key;
  json value;
  ErrorCode code;
  const char* message;
};

TEST(Architecture, RefusesWhatItCannotRunNamingTheKey) {
  const Refusal refusals[] = {
      {"model_type", "mamba", ErrorCode::kUnsupported,
       "\"mamba\" is not supported (supported: gemma3_text, gpt2, llama, mistral, qwen2, qwen3, stablelm)"},
      {"rope_scaling",
       {{"rope_type", "longrope"}, {"factor", 4}},
       ErrorCode::kUnsupported,
       "rope_scaling.rope_type = \"longrope\" is not supported"},
      {"rope_scaling", {{"factor", 4}}, ErrorCode::kBadFormat, "rope_scaling.type is missing"},
      {"rope_scaling", "linear", ErrorCode::kBadFormat, "rope_scaling is missing or no object"},
      {"rope_scaling", {{"rope_type", "linear"}}, ErrorCode::kBadFormat, "rope_scaling.factor is missing"},
      {"rope_scaling",
       {{"type", "linear"}, {"factor", 0.5}},
       ErrorCode::kBadFormat,
       "rope_scaling.factor is 0.5, expected at least 1"},
      {"rope_scaling",
       {{"type", "dynamic"}, {"factor", 2}, {"alpha", 1000}},
       ErrorCode::kUnsupported,
       "rope_scaling.alpha = 1000 is not supported"},
      {"rope_scaling",
       {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}},
       ErrorCode::kBadFormat,
       "rope_scaling.high_freq_factor is 4, expected more than low_freq_factor 4"},
      {"rope_scaling",
       {{"rope_type", "yarn"}, {"factor", 8}, {"beta_fast", 1}, {"beta_slow", 2}},
       ErrorCode::kBadFormat,
       "rope_scaling.beta_fast is 1, expected at least beta_slow 2"},
      {"rope_scaling",
       {{"rope_type", "frequency_factors"}, {"factors", {1, 2}}},
       ErrorCode::kBadFormat,
       "rope_scaling.factors are 2, expected one for each of 8 frequencies"},
      {"rope_scaling",
       {{"rope_type", "frequency_factors"}},
       ErrorCode::kBadFormat,
       "rope_scaling.factors is missing"},
      {"rope_theta", 1.0, ErrorCode::kBadFormat, "rope_theta is 1, expected more than 1"},
      {"rope_local_scaling", {{"rope_type", "linear"}}, ErrorCode::kUnsupported, "rope_local_scaling"},
      {"partial_rotary_factor", 0.2, ErrorCode::kBadFormat, "makes 3 rotary dimensions"},
      {"partial_rotary_factor", 1.5, ErrorCode::kBadFormat, "partial_rotary_factor 1.5"},
      {"sliding_window", 128, ErrorCode::kUnsupported,
       "sliding_window = 128 is not supported: llama has none"},
      {"layer_types", {"full_attention"}, ErrorCode::kBadFormat, "layer_types is no list of 6 layers"},
      {"layer_types", json::array({"chunked_attention", "", "", "", "", ""}), ErrorCode::kUnsupported,
       "layer_types"},
      {"layer_types",
       json::array({"sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
                    "sliding_attention", "sliding_attention"}),
       ErrorCode::kUnsupported, "sliding_attention needs a sliding_window"},
      {"final_logit_softcapping", 30.0, ErrorCode::kUnsupported, "final_logit_softcapping = 30"},
      {"attn_logit_softcapping", 50.0, ErrorCode::kUnsupported, "attn_logit_softcapping = 50"},
      {"use_parallel_residual", true, ErrorCode::kUnsupported, "use_parallel_residual"},
      {"hidden_act", "relu", ErrorCode::kUnsupported, "hidden_act = \"relu\""},
      {"num_hidden_layers", 2000000000, ErrorCode::kBadFormat, "num_hidden_layers is 2000000000"},
      {"num_hidden_layers", 0, ErrorCode::kBadFormat, "num_hidden_layers is 0"},
      {"hidden_size", "64", ErrorCode::kBadFormat, "hidden_size"},
      {"num_key_value_heads", 3, ErrorCode::kBadFormat, "num_key_value_heads 3"},
      {"rms_norm_eps", -1.0, ErrorCode::kBadFormat, "rms_norm_eps is -1"},
      {"head_dim", 15, ErrorCode::kBadFormat, "head_dim 15 with partial_rotary_factor 1 makes 15"},
      {"head_dim", 1024, ErrorCode::kUnsupported, "head_dim 1024"},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.key);
    EditedSource source;
    source.edited[refusal.key] = refusal.value;
    expect_error(refusal.code, refusal.message, [&] { read_architecture(source); });
  }
}

TEST(Architecture, RopeParametersInBothSpellings) {
  const auto parse = [](const std::string& parameters) {
    return parse_hf_config(R"({"model_type": "llama", "rope_parameters": )" + parameters + "}",
                           "config.json");
  };
  EXPECT_FALSE(parse(R"({"rope_theta": 5.0, "rope_type": "default"})").contains("rope_scaling"));
  EXPECT_EQ(parse(R"({"rope_theta": 5.0, "rope_type": "default"})")["rope_theta"], 5.0);
  EXPECT_TRUE(parse(R"({"rope_theta": 5.0, "type": "linear", "factor": 4})").contains("rope_scaling"));
  const json partial = parse(R"({"rope_theta": 5.0, "rope_type": "default", "partial_rotary_factor": 0.5})");
  EXPECT_FALSE(partial.contains("rope_scaling"));
  EXPECT_EQ(partial["partial_rotary_factor"], 0.5);
}

// sliding[i] of the first layers, as text.
std::string sliding_layers(const Architecture& arch) {
  std::string text;
  for (std::int64_t layer = 0; layer < arch.layers; ++layer) text += arch.is_sliding(layer) ? 's' : 'g';
  return text;
}

TEST(Architecture, MistralsLayersAllSlideAndItsContextEndsAtTheWindow) {
  EditedSource source("tiny-mistral");
  EXPECT_EQ(sliding_layers(read_architecture(source)), "sss");
  EXPECT_EQ(read_architecture(source).sliding_window, 11);
  EXPECT_EQ(read_architecture(source).context, 256) << "a window does not shorten the context";
  source.edited["sliding_window"] = nullptr;
  EXPECT_EQ(sliding_layers(read_architecture(source)), "ggg");
  EXPECT_EQ(read_architecture(source).context, 256);
}

TEST(Architecture, QwensLayersSlideFromOneOnIfTheyAreToldTo) {
  EditedSource source("tiny-qwen2");
  source.edited.erase("layer_types");
  source.edited["sliding_window"] = 32;
  source.edited["max_window_layers"] = 1;
  source.edited["use_sliding_window"] = false;
  EXPECT_EQ(sliding_layers(read_architecture(source)), "gggg");
  source.edited["use_sliding_window"] = true;
  EXPECT_EQ(sliding_layers(read_architecture(source)), "gsss");
  source.edited["max_window_layers"] = 0;
  EXPECT_EQ(sliding_layers(read_architecture(source)), "ssss");
  source.edited.erase("max_window_layers");
  EXPECT_EQ(sliding_layers(read_architecture(source)), "gggg") << "28, as transformers";
  source.edited["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  EXPECT_EQ(sliding_layers(read_architecture(source)), "gsgg");
}

TEST(Architecture, Gemma3sLayersSlideButEverySixth) {
  for (const char* model : {"tiny-gemma3", "tiny-gemma3.gguf"}) {
    EditedSource source(model);
    source.edited.erase("layer_types");
    const Architecture arch = read_architecture(source);
    EXPECT_EQ(sliding_layers(arch), "sssssg");
    EXPECT_EQ(arch.rope_theta, 1e6);
    EXPECT_EQ(arch.sliding_rope_theta, 1e4);
    EXPECT_EQ(arch.attention_scale, 0.25f);
    source.edited["sliding_window_pattern"] = 2;
    EXPECT_EQ(sliding_layers(read_architecture(source)), "sgsgsg");
    source.edited["query_pre_attn_scalar"] = 64;
    EXPECT_EQ(read_architecture(source).attention_scale, 0.125f);
  }
}

TEST(Architecture, ShapeHashTellsModelsApart) {
  EditedSource one, other;
  other.edited["intermediate_size"] = 96;
  EXPECT_EQ(read_architecture(one).shape_hash(), read_architecture(EditedSource{}).shape_hash());
  EXPECT_NE(read_architecture(one).shape_hash(), read_architecture(other).shape_hash());
}

void load(const WeightSource& source, Backend& backend) {
  const Architecture arch = read_architecture(source);
  load_weights(source, arch, whole_model(arch), backend, {});
}

TEST(Weights, MissingAndWronglyShapedTensorsAreNamed) {
  const auto backend = make_cpu_backend(Precision::kF32, 1);
  EditedSource missing;
  missing.missing = "model.layers.1.mlp.up_proj.weight";
  expect_error(ErrorCode::kBadFormat, "model.layers.1.mlp.up_proj.weight is missing",
               [&] { load(missing, *backend); });
  EditedSource reshaped;
  reshaped.reshaped = {"model.norm.weight", DType::kF32, {63}};
  expect_error(ErrorCode::kBadFormat, "model.norm.weight has shape [63], expected [64]",
               [&] { load(reshaped, *backend); });
  EditedSource untied;
  untied.edited["tie_word_embeddings"] = false;
  untied.missing = "lm_head.weight";
  expect_error(ErrorCode::kBadFormat, "lm_head.weight is missing", [&] { load(untied, *backend); });
}

}  // namespace
}  // namespace winnow
