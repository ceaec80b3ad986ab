#include "formats/weight_source.h"

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "formats/gguf_source.h"
#include "support/format_testing.h"
#include "support/gguf_builder.h"

namespace winnow {
namespace {

std::vector<float> read_all(const WeightSource& source, std::string_view name) {
  const TensorInfo* info = source.find(name);
  if (info == nullptr) throw std::runtime_error("no tensor " + std::string(name));
  const bool is_matrix = info->shape.size() == 2;
  const std::int64_t rows = is_matrix ? info->shape[0] : 1;
  std::vector<float> out(static_cast<std::size_t>(rows * info->shape.back()));
  source.read_rows(*info, 0, rows, out);
  return out;
}

void expect_matrix(const WeightSource& source, std::string_view name, int seed, std::int64_t rows,
                   std::int64_t cols) {
  SCOPED_TRACE(name);
  ASSERT_NE(source.find(name), nullptr);
  EXPECT_EQ(source.find(name)->shape, (std::vector<std::int64_t>{rows, cols}));
  EXPECT_EQ(read_all(source, name), golden_matrix(seed, rows, cols));
}

void expect_vector(const WeightSource& source, std::string_view name, int seed, std::int64_t size) {
  SCOPED_TRACE(name);
  ASSERT_NE(source.find(name), nullptr);
  EXPECT_EQ(source.find(name)->shape, std::vector<std::int64_t>{size});
  EXPECT_EQ(read_all(source, name), golden_matrix(seed, size, 1));
}

TEST(GgufSource, LlamaHasHuggingFacesNamesRowsAndConfig) {
  const auto source = open_weights(golden("tiny_llama.gguf"));
  EXPECT_EQ(source->path(), golden("tiny_llama.gguf"));
  EXPECT_EQ(source->tensors().size(), 13u);
  expect_matrix(*source, "model.embed_tokens.weight", 1, 48, 32);
  expect_vector(*source, "model.norm.weight", 2, 32);
  const std::string layer = "model.layers.0.";
  expect_vector(*source, layer + "input_layernorm.weight", 3, 32);
  expect_matrix(*source, layer + "self_attn.q_proj.weight", 4, 32, 32);
  expect_matrix(*source, layer + "self_attn.k_proj.weight", 5, 16, 32);
  expect_vector(*source, layer + "self_attn.q_proj.bias", 13, 32);
  expect_vector(*source, layer + "self_attn.k_proj.bias", 14, 16);
  expect_matrix(*source, layer + "self_attn.v_proj.weight", 6, 16, 32);
  expect_matrix(*source, layer + "self_attn.o_proj.weight", 7, 32, 32);
  expect_vector(*source, layer + "post_attention_layernorm.weight", 8, 32);
  expect_matrix(*source, layer + "mlp.gate_proj.weight", 9, 64, 32);
  expect_matrix(*source, layer + "mlp.up_proj.weight", 10, 64, 32);
  expect_matrix(*source, layer + "mlp.down_proj.weight", 11, 32, 64);
  EXPECT_EQ(source->find("lm_head.weight"), nullptr);

  nlohmann::json config = source->config();
  EXPECT_EQ(static_cast<float>(config.at("rms_norm_eps")), 1e-5f);
  config.erase("rms_norm_eps");
  EXPECT_EQ(config, nlohmann::json::parse(R"({
    "model_type": "llama", "name": "tiny llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64, "max_position_embeddings": 128,
    "vocab_size": 48, "tie_word_embeddings": true, "hidden_act": "silu", "rope_theta": 50000.0})"));
}

TEST(GgufSource, RowRangesOfAPermutedMatrix) {
  const auto source = open_weights(golden("tiny_llama.gguf"));
  const TensorInfo* q = source->find("model.layers.0.self_attn.q_proj.weight");
  for (std::int64_t begin = 0; begin < 32; begin += 5) {
    const std::int64_t end = std::min<std::int64_t>(begin + 5, 32);
    std::vector<float> rows(static_cast<std::size_t>((end - begin) * 32));
    source->read_rows(*q, begin, end, rows);
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t c = 0; c < 32; ++c) {
        ASSERT_EQ(rows[static_cast<std::size_t>((r - begin) * 32 + c)], golden_value(4, r, c))
            << r << ", " << c;
      }
    }
  }
  source->read_rows(*q, 3, 3, {});
}

TEST(GgufSource, Gpt2HasHuggingFacesNames) {
  const auto source = open_weights(golden("tiny_gpt2.gguf"));
  EXPECT_EQ(source->tensors().size(), 16u);
  expect_matrix(*source, "transformer.wte.weight", 1, 20, 8);
  expect_matrix(*source, "transformer.wpe.weight", 2, 16, 8);
  expect_vector(*source, "transformer.ln_f.weight", 3, 8);
  expect_vector(*source, "transformer.ln_f.bias", 23, 8);
  expect_vector(*source, "transformer.h.0.ln_1.weight", 4, 8);
  expect_vector(*source, "transformer.h.0.ln_2.bias", 25, 8);
  expect_matrix(*source, "transformer.h.0.attn.c_attn.weight", 6, 24, 8);
  expect_vector(*source, "transformer.h.0.attn.c_attn.bias", 26, 24);
  expect_matrix(*source, "transformer.h.0.attn.c_proj.weight", 7, 8, 8);
  expect_matrix(*source, "transformer.h.0.mlp.c_fc.weight", 8, 32, 8);
  expect_matrix(*source, "transformer.h.0.mlp.c_proj.weight", 9, 8, 32);
  const nlohmann::json& config = source->config();
  EXPECT_EQ(config.at("model_type"), "gpt2");
  EXPECT_EQ(config.at("hidden_act"), "gelu_new");
  EXPECT_EQ(config.at("num_key_value_heads"), 2);
  EXPECT_EQ(config.at("vocab_size"), 20);
  EXPECT_EQ(config.at("name"), "tiny_gpt2");
  EXPECT_EQ(static_cast<float>(config.at("layer_norm_epsilon")), 1e-5f);
  EXPECT_FALSE(config.contains("rope_theta"));
}

GgufBuilder minimal(std::string_view architecture) {
  const auto key = [&](std::string_view name) { return fmt::format("{}.{}", architecture, name); };
  GgufBuilder builder;
  builder.text("general.architecture", architecture)
      .u32(key("embedding_length"), 8)
      .u32(key("block_count"), 1);
  builder.u32(key("attention.head_count"), 2)
      .u32(key("feed_forward_length"), 12)
      .u32(key("context_length"), 64);
  builder.f32(key("attention.layer_norm_rms_epsilon"), 1e-6f).u32(key("vocab_size"), 5);
  return builder;
}

struct InMemory {
  explicit InMemory(const GgufBuilder& builder)
      : bytes(builder.build()), source(make_gguf_source(GgufFile(bytes_of(bytes), "folder/mem.gguf"))) {}
  std::string bytes;
  std::unique_ptr<WeightSource> source;
};

TEST(GgufSource, DefaultsOfMissingKeys) {
  const InMemory file(minimal("llama"));
  EXPECT_EQ(file.source->config().at("rope_theta"), 10000.0);
  EXPECT_EQ(file.source->config().at("num_key_value_heads"), 2);
  EXPECT_EQ(file.source->config().at("name"), "mem");
  EXPECT_FALSE(file.source->config().contains("rope_scaling"));
  EXPECT_EQ(file.source->weight_bytes(), 0);
}

TEST(GgufSource, Qwen2IsNotPermutedAndMayBeUntied) {
  GgufBuilder builder = minimal("qwen2");
  const std::vector<float> q = golden_matrix(4, 8, 8);
  const std::vector<float> bias = golden_matrix(5, 8, 1);
  builder.tensor("blk.0.attn_q.weight", {8, 8}, q).tensor("blk.0.attn_q.bias", {8}, bias);
  builder.tensor("output.weight", {8, 5}, golden_matrix(6, 5, 8));
  const InMemory file(builder);
  EXPECT_EQ(read_all(*file.source, "model.layers.0.self_attn.q_proj.weight"), q);
  EXPECT_EQ(read_all(*file.source, "model.layers.0.self_attn.q_proj.bias"), bias);
  EXPECT_EQ(file.source->config().at("tie_word_embeddings"), false);
  expect_matrix(*file.source, "lm_head.weight", 6, 5, 8);
}

TEST(GgufSource, RopeScaling) {
  const InMemory yarn(minimal("qwen2")
                          .text("qwen2.rope.scaling.type", "yarn")
                          .f32("qwen2.rope.scaling.factor", 4.0f)
                          .u32("qwen2.rope.scaling.original_context_length", 32768));
  EXPECT_EQ(
      yarn.source->config().at("rope_scaling"),
      nlohmann::json::parse(R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768})"));
  const InMemory old(minimal("llama").f32("llama.rope.scale_linear", 2.0f));
  EXPECT_EQ(old.source->config().at("rope_scaling"),
            nlohmann::json::parse(R"({"rope_type":"linear","factor":2.0})"));
  const InMemory none(minimal("llama").text("llama.rope.scaling.type", "none"));
  EXPECT_FALSE(none.source->config().contains("rope_scaling"));
  const InMemory factors(minimal("llama").tensor("rope_freqs.weight", {2}, std::vector{1.0f, 8.0f}));
  EXPECT_EQ(factors.source->config().at("rope_scaling"),
            nlohmann::json::parse(R"({"rope_type":"frequency_factors","factors":[1.0,8.0]})"));
  EXPECT_TRUE(factors.source->tensors().empty());
  const InMemory ones(minimal("llama")
                          .f32("llama.rope.scaling.factor", 2.0f)
                          .tensor("rope_freqs.weight", {2}, std::vector{1.0f, 1.0f}));
  EXPECT_EQ(ones.source->config().at("rope_scaling"),
            nlohmann::json::parse(R"({"rope_type":"linear","factor":2.0})"));
}

// llama.cpp multiplies YaRN's own factor, 0.1 ln(4) + 1, by the file's.
TEST(GgufSource, YarnsAttentionFactor) {
  const InMemory file(minimal("qwen3")
                          .text("qwen3.rope.scaling.type", "yarn")
                          .f32("qwen3.rope.scaling.factor", 4.0f)
                          .f32("qwen3.rope.scaling.yarn_beta_fast", 16.0f)
                          .f32("qwen3.rope.scaling.attn_factor", 0.5f));
  EXPECT_NEAR(file.source->config().at("rope_scaling").at("attention_factor").get<double>(), 0.5693147, 1e-6);
  EXPECT_EQ(file.source->config().at("rope_scaling").at("beta_fast"), 16.0);
}

TEST(GgufSource, SlidingWindows) {
  const InMemory mistral(minimal("llama").u32("llama.attention.sliding_window", 32));
  EXPECT_EQ(mistral.source->config().at("model_type"), "mistral");
  EXPECT_EQ(mistral.source->config().at("sliding_window"), 32);
  const InMemory off(minimal("llama").u32("llama.attention.sliding_window", 0));
  EXPECT_EQ(off.source->config().at("model_type"), "llama");
  EXPECT_FALSE(off.source->config().contains("sliding_window"));
  const InMemory global(minimal("gemma3").u32("gemma3.attention.sliding_window", 0));
  EXPECT_TRUE(global.source->config().at("sliding_window").is_null());
}

// What a Gemma 3 file leaves to llama.cpp: the pattern, the local theta, the attention scale by model size.
TEST(GgufSource, Gemma3) {
  const InMemory file(minimal("gemma3").u32("gemma3.attention.sliding_window", 16));
  const nlohmann::json& config = file.source->config();
  EXPECT_EQ(config.at("model_type"), "gemma3_text");
  EXPECT_EQ(config.at("hidden_act"), "gelu_pytorch_tanh");
  EXPECT_EQ(config.at("sliding_window_pattern"), 6);
  EXPECT_EQ(config.at("rope_theta"), 1e6);
  EXPECT_EQ(config.at("rope_local_base_freq"), 1e4);
  EXPECT_EQ(config.at("query_pre_attn_scalar"), 4);
  EXPECT_EQ(config.at("head_dim"), 4);
  GgufBuilder largest;
  largest.text("general.architecture", "gemma3")
      .u32("gemma3.embedding_length", 24)
      .u32("gemma3.block_count", 62);
  largest.u32("gemma3.attention.head_count", 2).u32("gemma3.attention.key_length", 8);
  largest.u32("gemma3.feed_forward_length", 8).u32("gemma3.context_length", 8).u32("gemma3.vocab_size", 8);
  largest.f32("gemma3.attention.layer_norm_rms_epsilon", 1e-6f).f32("gemma3.final_logit_softcapping", 30.0f);
  const InMemory large(largest);
  EXPECT_EQ(large.source->config().at("query_pre_attn_scalar"), 12);
  EXPECT_EQ(large.source->config().at("final_logit_softcapping"), 30.0);
}

TEST(GgufSource, EveryQuantisedTypeIsReadRowByRow) {
  const auto source = open_weights(golden("types.gguf"));
  int types = 0;
  for (const TensorInfo& info : source->tensors()) {
    SCOPED_TRACE(dtype_info(info.dtype).name);
    std::string file(dtype_info(info.dtype).name);
    for (char& c : file) c = static_cast<char>(std::tolower(c));
    const std::string floats = read_text(golden(file + ".f32"));
    ASSERT_EQ(info.shape, (std::vector<std::int64_t>{4, 256}));
    for (std::int64_t row = 0; row < 4; ++row) {
      std::vector<float> found(256);
      source->read_rows(info, row, row + 1, found);
      const auto bytes = bytes_of(floats).subspan(static_cast<std::size_t>(row) * 1024, 1024);
      for (std::size_t i = 0; i < found.size(); ++i) {
        float expected;
        std::memcpy(&expected, bytes.data() + i * sizeof expected, sizeof expected);
        if (std::isnan(expected)) continue;
        ASSERT_EQ(found[i], expected) << row << ", " << i;
      }
    }
    ++types;
  }
  EXPECT_EQ(types, 12);
}

TEST(GgufSource, TextThatIsNotUtf8StillMakesAConfig) {
  const InMemory file(minimal("llama").text("general.name", "a\xff"));
  EXPECT_EQ(file.source->config().at("name"), "a\xef\xbf\xbd");
  EXPECT_NO_THROW(file.source->config().dump());
}

void expect_bad_source(const GgufBuilder& builder, ErrorCode code, std::string_view message_part) {
  expect_error(code, message_part, [&] { InMemory file(builder); });
}

TEST(GgufSourceDamage, NamesWhatIsWrong) {
  expect_bad_source(GgufBuilder(), ErrorCode::kBadFormat,
                    "mem.gguf: the metadata key general.architecture is missing");
  expect_bad_source(GgufBuilder().text("general.architecture", "mamba"), ErrorCode::kUnsupported,
                    "general.architecture mamba is not supported; winnow runs llama, qwen2, qwen3, stablelm, "
                    "gemma3, gpt2");
  expect_bad_source(GgufBuilder().text("general.architecture", "llama"), ErrorCode::kBadFormat,
                    "the metadata key llama.embedding_length is missing");
  expect_bad_source(minimal("llama").text("llama.rope.freq_base", "x"), ErrorCode::kBadFormat,
                    "key llama.rope.freq_base is a string, expected a number");
  expect_bad_source(minimal("llama").u32("llama.expert_count", 8), ErrorCode::kUnsupported,
                    "llama.expert_count is 8, which is not supported: mixtures of experts");
  const std::pair<const char*, float> refused[] = {{"attn_logit_softcapping", 50.0f},
                                                   {"attention.scale", 0.5f},
                                                   {"logit_scale", 2.0f},
                                                   {"embedding_scale", 2.0f},
                                                   {"residual_scale", 2.0f},
                                                   {"rope.scaling.yarn_log_multiplier", 0.25f},
                                                   {"rope.scaling.yarn_ext_factor", 0.0f}};
  for (const auto& [key, value] : refused) {
    expect_bad_source(minimal("llama").f32(fmt::format("llama.{}", key), value), ErrorCode::kUnsupported,
                      fmt::format("llama.{} is {}, which is not supported", key, value));
  }
  expect_bad_source(minimal("llama").u32("llama.rope.dimension_count", 2), ErrorCode::kUnsupported,
                    "llama.rope.dimension_count is 2, but heads have 4 dimensions");
  expect_bad_source(minimal("qwen2").u32("qwen2.attention.sliding_window", 32), ErrorCode::kUnsupported,
                    "qwen2.attention.sliding_window is 32, which is not supported for qwen2");
  expect_bad_source(minimal("qwen2").u32("qwen2.attention.value_length", 8), ErrorCode::kUnsupported,
                    "qwen2.attention.value_length is 8, but keys have 4");
  expect_bad_source(minimal("llama")
                        .text("llama.rope.scaling.type", "yarn")
                        .f32("llama.rope.scaling.factor", 2.0f)
                        .tensor("rope_freqs.weight", {2}, std::vector{1.0f, 8.0f}),
                    ErrorCode::kUnsupported, "rope.scaling.type is yarn beside the tensor rope_freqs.weight");
  const std::vector<float> row(8);
  for (const char* name :
       {"blk.0.attn_rel.weight", "blk.00.attn_v.weight", "blk.x.attn_v.weight", "blk.0", "blk.",
        "blk.0attn_v.weight", "attn_v.weight", "output.scale", "blk.99999999999.attn_v.weight"}) {
    expect_bad_source(minimal("llama").tensor(name, {8}, row), ErrorCode::kUnsupported,
                      fmt::format("tensor {} is not part of the architecture llama", name));
  }
  expect_bad_source(minimal("llama").tensor("blk.0.attn_q.weight", {8, 3}, std::vector<float>(24)),
                    ErrorCode::kBadFormat, "its 3 rows do not divide into 2 heads of an even size");
  expect_bad_source(
      minimal("llama").u32("llama.attention.head_count_kv", 0).tensor("blk.0.attn_k.weight", {8}, row),
      ErrorCode::kBadFormat, "do not divide into 0 heads");
  expect_bad_source(minimal("llama").tensor("rope_freqs.weight", {2000}, std::vector<float>(2000)),
                    ErrorCode::kBadFormat, "rope_freqs.weight has 2000 elements");
}

TEST(HuggingFaceSource, Llama) {
  const auto source = open_weights(golden("llama_hf/"));
  expect_matrix(*source, "model.embed_tokens.weight", 1, 10, 8);
  expect_vector(*source, "model.norm.weight", 2, 8);
  expect_matrix(*source, "model.layers.0.self_attn.q_proj.weight", 4, 8, 8);
  EXPECT_EQ(source->find("model.layers.0.self_attn.rotary_emb.inv_freq"), nullptr) << "no weight";
  EXPECT_EQ(source->tensors().size(), 3u);
  EXPECT_EQ(source->weight_bytes(), 160 + 16 + 256);
  const nlohmann::json& config = source->config();
  EXPECT_EQ(config.at("name"), "llama_hf");
  EXPECT_EQ(config.at("tie_word_embeddings"), true) << "no key and no lm_head.weight";
  EXPECT_EQ(config.at("rope_theta"), 20000.0);
  EXPECT_EQ(config.at("rope_scaling"), nlohmann::json::parse(R"({"rope_type":"linear","factor":2.0})"));
  expect_error(ErrorCode::kUnsupported, "tensor position_ids has type I64, which winnow does not read",
               [&] { source->find("position_ids"); });
}

TEST(HuggingFaceSource, Gpt2IsTransposedAndPrefixed) {
  const auto source = open_weights(golden("gpt2_hf"));
  expect_matrix(*source, "transformer.wte.weight", 1, 20, 8);
  expect_matrix(*source, "transformer.h.0.attn.c_attn.weight", 6, 24, 8);
  expect_vector(*source, "transformer.h.0.attn.c_attn.bias", 26, 24);
  expect_matrix(*source, "transformer.h.0.mlp.c_fc.weight", 8, 32, 8);
  expect_matrix(*source, "transformer.h.0.mlp.c_proj.weight", 9, 8, 32);
  expect_vector(*source, "transformer.ln_f.weight", 3, 8);
  EXPECT_EQ(source->find("transformer.h.0.attn.bias"), nullptr) << "the causal mask is no weight";
  EXPECT_EQ(source->config().at("hidden_size"), 8);
  EXPECT_EQ(source->config().at("tie_word_embeddings"), true);
}

std::string one_matrix_file(std::string_view name, std::int64_t rows, std::int64_t cols,
                            std::span<const float> data) {
  const std::string header =
      fmt::format(R"({{"{}":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{}]}}}})", name, rows, cols,
                  data.size_bytes());
  return GgufBuilder::raw_string(header) +
         std::string(reinterpret_cast<const char*>(data.data()), data.size_bytes());
}

// The file holds weight - 1.
TEST(HuggingFaceSource, GemmasNormsGetTheirOne) {
  for (const auto& [type, expected] : {std::pair{"gemma3_text", 1.25f}, {"llama", 0.25f}}) {
    const TemporaryFolder folder;
    folder.write("config.json", fmt::format(R"({{"model_type":"{}"}})", type));
    const std::vector<float> stored(4, 0.25f);
    folder.write("model.safetensors",
                 one_matrix_file("model.layers.0.self_attn.q_norm.weight", 1, 4, stored));
    const auto source = open_weights(folder.path().string());
    EXPECT_EQ(read_all(*source, "model.layers.0.self_attn.q_norm.weight"), std::vector<float>(4, expected))
        << type;
  }
}

TEST(HuggingFaceSource, TransposesAnySizeAndRowRange) {
  for (const auto& [in, out] : {std::pair{1, 1}, {3, 200}, {64, 64}, {65, 129}, {200, 3}}) {
    SCOPED_TRACE(fmt::format("{} x {}", in, out));
    const TemporaryFolder folder;
    folder.write("config.json", R"({"model_type":"gpt2"})");
    std::vector<float> stored(static_cast<std::size_t>(in * out));
    for (std::size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<float>(i);
    folder.write("model.safetensors", one_matrix_file("transformer.h.1.mlp.c_fc.weight", in, out, stored));
    const auto source = open_weights(folder.path().string());
    const TensorInfo* info = source->find("transformer.h.1.mlp.c_fc.weight");
    ASSERT_EQ(info->shape, (std::vector<std::int64_t>{out, in}));
    for (const auto& [begin, end] : {std::pair{0, out}, {out / 3, out - out / 4}, {out - 1, out}}) {
      std::vector<float> rows(static_cast<std::size_t>((end - begin) * in));
      source->read_rows(*info, begin, end, rows);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const int row = begin + static_cast<int>(i) / in;
        const int col = static_cast<int>(i) % in;
        ASSERT_EQ(rows[i], static_cast<float>(col * out + row)) << row << ", " << col;
      }
    }
  }
}

TEST(HuggingFaceSource, QuantizedCheckpointsAreRefused) {
  const TemporaryFolder folder;
  folder.write("config.json", R"({"model_type":"llama","quantization_config":{"quant_method":"gptq"}})");
  expect_error(ErrorCode::kUnsupported, "quantization_config (\"gptq\") is not supported",
               [&] { open_weights(folder.path().string()); });
}

TEST(OpenWeights, NamesWhatCannotBeOpened) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kIo, "none.gguf: cannot open", [&] { open_weights(folder.file("none.gguf")); });
  expect_error(ErrorCode::kIo, "config.json: cannot open", [&] { open_weights(folder.path().string()); });
  expect_error(ErrorCode::kBadFormat, "is not a GGUF file",
               [&] { open_weights(folder.write("x", "hello")); });
  expect_error(ErrorCode::kBadArgument, "name the folder",
               [&] { open_weights(folder.file("a.safetensors")); });
}

TEST(WeightSource, HashChangesWithNamesShapesAndBytes) {
  const auto hash = [](std::string_view name, const std::vector<std::uint64_t>& extents, float value) {
    GgufBuilder builder = minimal("llama");
    builder.tensor(name, extents, std::vector<float>(4, value));
    return InMemory(builder).source->content_hash();
  };
  const std::set<std::uint64_t> hashes = {
      hash("token_embd.weight", {4}, 1.0f), hash("token_embd.weight", {4}, 2.0f),
      hash("token_embd.weight", {2, 2}, 1.0f), hash("output.weight", {4}, 1.0f)};
  EXPECT_EQ(hashes.size(), 4u);
  EXPECT_EQ(hash("token_embd.weight", {4}, 1.0f), hash("token_embd.weight", {4}, 1.0f));
}

TEST(WeightSource, ThreadsMayReadAtOnce) {
  const auto source = open_weights(golden("tiny_llama.gguf"));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 50; ++n) {
        EXPECT_EQ(read_all(*source, "model.layers.0.self_attn.q_proj.weight"), golden_matrix(4, 32, 32));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(RealModel, SmolLm2) {
  const char* path = std::getenv("WINNOW_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set WINNOW_TEST_MODEL to the GGUF file of SmolLM2-135M-Instruct";
  const auto source = open_weights(path);
  const nlohmann::json& config = source->config();
  EXPECT_EQ(config.at("model_type"), "llama");
  EXPECT_EQ(config.at("hidden_size"), 576);
  EXPECT_EQ(config.at("num_hidden_layers"), 30);
  EXPECT_EQ(config.at("num_attention_heads"), 9);
  EXPECT_EQ(config.at("num_key_value_heads"), 3);
  EXPECT_EQ(config.at("head_dim"), 64);
  EXPECT_EQ(config.at("intermediate_size"), 1536);
  EXPECT_EQ(config.at("vocab_size"), 49152);
  EXPECT_EQ(config.at("max_position_embeddings"), 8192);
  EXPECT_EQ(config.at("rope_theta"), 100000.0);
  EXPECT_EQ(config.at("tie_word_embeddings"), true);
  EXPECT_EQ(source->tensors().size(), 272u);
  for (const TensorInfo& info : source->tensors()) {
    const std::vector<float> values = read_all(*source, info.name);
    ASSERT_TRUE(std::all_of(values.begin(), values.end(), [](float v) { return std::abs(v) < 1000.0f; }))
        << info.name;
  }
  const std::vector<float> before = read_all(*source, "model.norm.weight");
  source->drop_pages();
  EXPECT_EQ(read_all(*source, "model.norm.weight"), before);
}

}  // namespace
}  // namespace winnow
