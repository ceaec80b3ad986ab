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
       "\"mamba\" is not supported (supported: gpt2, llama, qwen2)"},
      {"rope_scaling", {{"rope_type", "linear"}, {"factor", 4}}, ErrorCode::kUnsupported, "rope_scaling"},
      {"partial_rotary_factor", 0.5, ErrorCode::kUnsupported, "partial_rotary_factor"},
      {"sliding_window", 128, ErrorCode::kUnsupported, "sliding_window"},
      {"layer_types", {"full_attention", "sliding_attention"}, ErrorCode::kUnsupported, "layer_types"},
      {"hidden_act", "relu", ErrorCode::kUnsupported, "hidden_act = \"relu\""},
      {"num_hidden_layers", 2000000000, ErrorCode::kBadFormat, "num_hidden_layers is 2000000000"},
      {"num_hidden_layers", 0, ErrorCode::kBadFormat, "num_hidden_layers is 0"},
      {"hidden_size", "64", ErrorCode::kBadFormat, "hidden_size"},
      {"num_key_value_heads", 3, ErrorCode::kBadFormat, "num_key_value_heads 3"},
      {"rms_norm_eps", -1.0, ErrorCode::kBadFormat, "rms_norm_eps is -1"},
      {"head_dim", 15, ErrorCode::kBadFormat, "head_dim 15 must be even"},
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
  EXPECT_TRUE(parse(R"({"rope_theta": 5.0, "rope_type": "default", "partial_rotary_factor": 0.5})")
                  .contains("rope_scaling"));
}

TEST(Architecture, ShapeHashTellsModelsApart) {
  EditedSource one, other;
  other.edited["intermediate_size"] = 96;
  EXPECT_EQ(read_architecture(one).shape_hash(), read_architecture(EditedSource{}).shape_hash());
  EXPECT_NE(read_architecture(one).shape_hash(), read_architecture(other).shape_hash());
}

TEST(Weights, MissingAndWronglyShapedTensorsAreNamed) {
  const auto backend = make_cpu_backend(Precision::kF32, 1);
  EditedSource missing;
  missing.missing = "model.layers.1.mlp.up_proj.weight";
  expect_error(ErrorCode::kBadFormat, "model.layers.1.mlp.up_proj.weight is missing",
               [&] { load_weights(missing, read_architecture(missing), *backend, {}); });
  EditedSource reshaped;
  reshaped.reshaped = {"model.norm.weight", DType::kF32, {63}};
  expect_error(ErrorCode::kBadFormat, "model.norm.weight has shape [63], expected [64]",
               [&] { load_weights(reshaped, read_architecture(reshaped), *backend, {}); });
  EditedSource untied;
  untied.edited["tie_word_embeddings"] = false;
  untied.missing = "lm_head.weight";
  expect_error(ErrorCode::kBadFormat, "lm_head.weight is missing",
               [&] { load_weights(untied, read_architecture(untied), *backend, {}); });
}

}  // namespace
}  // namespace winnow
