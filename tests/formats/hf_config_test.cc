#include "formats/hf_config.h"

#include <nlohmann/json.hpp>

#include "support/format_testing.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

TEST(HfConfig, KeepsTheKeysOfAModelThatHasThem) {
  const Json config =
      parse_hf_config(R"({"model_type":"llama","hidden_size":8,"rope_theta":1e4,"x":[1]})", "c");
  EXPECT_EQ(config, Json::parse(R"({"model_type":"llama","hidden_size":8,"rope_theta":1e4,"x":[1]})"));
}

TEST(HfConfig, Gpt2GetsTheCommonNames) {
  const Json config = parse_hf_config(
      R"({"model_type":"gpt2","n_embd":768,"n_layer":12,"n_head":12,"n_positions":1024,"n_ctx":512,"n_inner":null,
          "activation_function":"gelu_new","layer_norm_epsilon":1e-6,"vocab_size":50257})",
      "c");
  EXPECT_EQ(config.at("hidden_size"), 768);
  EXPECT_EQ(config.at("num_hidden_layers"), 12);
  EXPECT_EQ(config.at("num_attention_heads"), 12);
  EXPECT_EQ(config.at("num_key_value_heads"), 12);
  EXPECT_EQ(config.at("max_position_embeddings"), 1024);
  EXPECT_EQ(config.at("intermediate_size"), 3072);
  EXPECT_EQ(config.at("hidden_act"), "gelu_new");
  EXPECT_EQ(config.at("layer_norm_epsilon"), 1e-6);
  EXPECT_EQ(config.at("tie_word_embeddings"), true);
}

TEST(HfConfig, Gpt2ValuesAreNotTrusted) {
  const Json config = parse_hf_config(R"({"model_type":"gpt2","n_embd":9223372036854775807})", "c");
  EXPECT_FALSE(config.contains("intermediate_size"));
  EXPECT_EQ(parse_hf_config(R"({"model_type":"gpt2","n_embd":"x","n_inner":5})", "c").at("intermediate_size"),
            5);
}

TEST(HfConfig, RopeParametersBecomeTheOlderKeys) {
  const Json plain = parse_hf_config(
      R"({"model_type":"llama","rope_parameters":{"rope_theta":5e5,"rope_type":"default"}})", "c");
  EXPECT_EQ(plain.at("rope_theta"), 5e5);
  EXPECT_FALSE(plain.contains("rope_scaling"));
  const Json scaled = parse_hf_config(
      R"({"model_type":"llama","rope_parameters":{"rope_theta":5e5,"rope_type":"llama3","factor":8.0}})",
      "c");
  EXPECT_EQ(scaled.at("rope_scaling"), Json::parse(R"({"rope_type":"llama3","factor":8.0})"));
}

TEST(HfConfig, RopeParametersByLayerType) {
  const Json config = parse_hf_config(
      R"({"model_type":"gemma3_text","rope_parameters":{
          "full_attention":{"rope_type":"linear","factor":8.0,"rope_theta":2e6},
          "sliding_attention":{"rope_type":"default","rope_theta":3e4}}})",
      "c");
  EXPECT_EQ(config.at("rope_theta"), 2e6);
  EXPECT_EQ(config.at("rope_scaling"), Json::parse(R"({"rope_type":"linear","factor":8.0})"));
  EXPECT_EQ(config.at("rope_local_base_freq"), 3e4);
  EXPECT_FALSE(config.contains("rope_local_scaling"));
  const Json scaled = parse_hf_config(
      R"({"model_type":"gemma3_text","rope_parameters":{
          "full_attention":{"rope_type":"default"},"sliding_attention":{"rope_type":"linear","factor":2.0}}})",
      "c");
  EXPECT_EQ(scaled.at("rope_local_scaling"), Json::parse(R"({"rope_type":"linear","factor":2.0})"));
  EXPECT_EQ(scaled.at("rope_theta"), 1e6);
  EXPECT_EQ(scaled.at("rope_local_base_freq"), 1e4);
}

// The defaults of the classes in transformers.
TEST(HfConfig, DefaultsOfTheFamilies) {
  EXPECT_EQ(parse_hf_config(R"({"model_type":"llama"})", "c").at("rope_theta"), 1e4);
  EXPECT_EQ(parse_hf_config(R"({"model_type":"mistral"})", "c").at("sliding_window"), 4096);
  EXPECT_TRUE(
      parse_hf_config(R"({"model_type":"mistral","sliding_window":null})", "c")["sliding_window"].is_null());
  EXPECT_EQ(parse_hf_config(R"({"model_type":"stablelm"})", "c").at("partial_rotary_factor"), 0.25);
  const Json gemma = parse_hf_config(R"({"model_type":"gemma3_text","hidden_activation":"gelu"})", "c");
  EXPECT_EQ(gemma.at("hidden_act"), "gelu");
  EXPECT_EQ(gemma.at("sliding_window_pattern"), 6);
  EXPECT_EQ(gemma.at("query_pre_attn_scalar"), 256);
  EXPECT_EQ(gemma.at("rope_theta"), 1e6);
}

TEST(HfConfig, BadFilesAreErrors) {
  expect_error(ErrorCode::kBadFormat, "c: bad JSON", [] { parse_hf_config("{", "c"); });
  expect_error(ErrorCode::kBadFormat, "c: bad JSON", [] { parse_hf_config("", "c"); });
  expect_error(ErrorCode::kBadFormat, "c: the JSON is no object", [] { parse_hf_config("[]", "c"); });
  expect_error(ErrorCode::kBadFormat, "c: the key model_type is missing", [] { parse_hf_config("{}", "c"); });
  expect_error(ErrorCode::kBadFormat, "model_type appears twice",
               [] { parse_hf_config(R"({"model_type":"a","model_type":"b"})", "c"); });
  expect_error(ErrorCode::kBadFormat, "bytes of JSON; at most 16777216 are read",
               [] { parse_hf_config(std::string(17 << 20, ' '), "c"); });
  const TemporaryFolder folder;
  expect_error(ErrorCode::kIo, "config.json: cannot open", [&] { read_hf_config(folder.path().string()); });
}

}  // namespace
}  // namespace winnow
