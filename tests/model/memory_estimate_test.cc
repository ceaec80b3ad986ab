// The estimate of memory against what is held: weights in all their forms, rotary tables, caches.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "backends/weight_forms.h"
#include "core/check.h"
#include "model/weight_sizes.h"
#include "model/weights.h"
#include "runtime/session.h"

namespace winnow {
namespace {

std::unique_ptr<Engine> open(const std::string& model, Precision precision) {
  return Engine::open(
      {.model = model, .random_weights = "", .precision = precision, .threads = 2, .progress = {}});
}

std::int64_t rope_held(const Engine& engine) {
  const RopeTables& rope = engine.weights().rope;
  return rope.global.cos.bytes() + rope.global.sin.bytes() + rope.sliding.cos.bytes() +
         rope.sliding.sin.bytes();
}

// Loads weights as GPUs do, which have no memory of the host's to read embeddings from and which keep stored
// rows beside the packed ones; computes nothing.
class TableKeeper final : public Backend, public WeightForms {
 public:
  std::string description() const override { return "keeps embeddings"; }
  Precision precision() const override { return Precision::kBF16; }
  bool keeps_embeddings() const override { return true; }
  Buffer allocate(std::int64_t bytes) override { return Buffer::host(bytes); }
  std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features,
                               const RowReader& reader) override {
    return pack_stored(out_features, in_features, reader, {});
  }
  std::unique_ptr<Weight> pack_stored(std::int64_t out_features, std::int64_t in_features, const RowReader&,
                                      std::span<const StoredRows> stored) override {
    std::int64_t bytes = packed_bytes(out_features * in_features);
    for (const StoredRows& part : stored) bytes += dtype_bytes(part.dtype, part.rows * in_features);
    return std::make_unique<Held>(out_features, in_features, bytes);
  }
  std::int64_t packed_bytes(std::int64_t elements) const override { return 2 * elements; }
  std::optional<std::int64_t> decode_form_bytes(DType dtype, std::int64_t rows,
                                                std::int64_t columns) const override {
    return dtype_bytes(dtype, rows * columns);
  }

  void norm(const NormParams&) override { check(false, kNot); }
  void linear(const LinearParams&) override { check(false, kNot); }
  void rope_append(const RopeAppendParams&) override { check(false, kNot); }
  void attention(const AttentionParams&) override { check(false, kNot); }
  void attention_probs(const AttentionProbsParams&) override { check(false, kNot); }
  std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams&) override { return nullptr; }
  void activation(const ActivationParams&) override { check(false, kNot); }
  void convert(const MatrixView&, const MatrixView&) override { check(false, kNot); }
  void row_norms(const MatrixView&, std::span<float>) override { check(false, kNot); }
  void keep_rows(const MatrixView&, std::span<const std::int64_t>) override { check(false, kNot); }
  void reserve(LayerKv&, std::int64_t) override { check(false, kNot); }
  std::int64_t kv_bytes(std::int64_t, std::int64_t, std::int64_t) const override { return 0; }
  void keep_rows(LayerKv&, std::span<const std::int64_t>) override { check(false, kNot); }

 private:
  static constexpr const char* kNot = "this backend computes nothing";
  class Held final : public Weight {
   public:
    Held(std::int64_t out_features, std::int64_t in_features, std::int64_t bytes)
        : out_(out_features), in_(in_features), bytes_(bytes) {}
    std::int64_t out_features() const override { return out_; }
    std::int64_t in_features() const override { return in_; }
    std::int64_t bytes() const override { return bytes_; }

   private:
    std::int64_t out_, in_, bytes_;
  };
  void own_window_scores(const WindowScoresParams&) override { check(false, kNot); }
};

// A rank's estimate is of what that rank loads: its heads and columns or its layers, its rows of the head,
// and the embedding table once where it reads tokens.
void expect_parts_load_what_is_told(const std::string& model) {
  const auto source = open_weights(model);
  const Architecture arch = read_architecture(*source);
  TableKeeper backend;
  for (const Split split : {Split::kTensor, Split::kLayers}) {
    for (const ModelPart& part : split_model(arch, split, 2)) {
      const ModelWeights weights = load_weights(*source, arch, part, backend, {});
      const LoadedBytes told = loaded_bytes(*source, arch, part, backend);
      EXPECT_EQ(told.packed + told.decode_forms, weights.bytes) << part.layers.begin;
    }
  }
}

class LoadedBytesOf : public testing::TestWithParam<const char*> {};
TEST_P(LoadedBytesOf, EveryPartOfASplitModel) {
  expect_parts_load_what_is_told(WINNOW_TEST_DATA "/models/" + std::string(GetParam()));
}

// Tied and not; learned positions, whose table is never kept; with rows as stored.
INSTANTIATE_TEST_SUITE_P(Models, LoadedBytesOf,
                         testing::Values("tiny-llama", "tiny-gemma3", "tiny-qwen2", "tiny-gpt2",
                                         "tiny-llama.gguf", "tiny-llama3.gguf"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
                           return name;
                         });

// Quantised: columns that are no whole blocks have no decode form.
TEST(LoadedBytesOfTheDemoModel, AreThoseOfItsParts) {
  const char* model = std::getenv("WINNOW_TEST_MODEL");
  if (model == nullptr) GTEST_SKIP() << "WINNOW_TEST_MODEL names no demo model";
  expect_parts_load_what_is_told(model);
}

class EstimateOf : public testing::TestWithParam<Precision> {};

// Before loading; packing pads tiny matrices to whole panels, so float32's are the exact ones.
TEST(LoadedBytes, AreThoseOfTheWeightsOfEveryFamily) {
  for (const char* family : {"tiny-llama", "tiny-qwen3", "tiny-gemma3", "tiny-gpt2", "tiny-dynamic"}) {
    SCOPED_TRACE(family);
    const auto engine = open(WINNOW_TEST_DATA "/models/" + std::string(family), Precision::kF32);
    const Architecture& arch = engine->arch();
    const LoadedBytes bytes = loaded_bytes(engine->source(), arch, whole_model(arch), engine->backend());
    EXPECT_EQ(bytes.decode_forms, 0);
    EXPECT_LE(bytes.packed, engine->weights().bytes);
    EXPECT_GE(1.2 * static_cast<double>(bytes.packed), static_cast<double>(engine->weights().bytes));
    if (arch.rope_scaling.kind != RopeScalingKind::kDynamic) {  // its sessions hold the table
      EXPECT_EQ(bytes.rope, rope_held(*engine));
    }
  }
}

TEST_P(EstimateOf, TheDemoModelIsWhatItHolds) {
  const char* model = std::getenv("WINNOW_TEST_MODEL");
  if (model == nullptr) GTEST_SKIP() << "WINNOW_TEST_MODEL names no demo model";
  const auto engine = open(model, GetParam());
  const Architecture& arch = engine->arch();
  const std::int64_t held = engine->weights().bytes + rope_held(*engine);
  EXPECT_EQ(loaded_bytes(engine->source(), arch, whole_model(arch), engine->backend()).decode_forms,
            engine->weights().has_decode_forms ? engine->weights().decode_bytes : 0);
  const double more = GetParam() == Precision::kInt8 ? 0.03 : 0.01;  // scales and sums of every feature
  const std::vector<TokenId> prompt(1000, 5);
  PrefillOptions options;
  options.reserve_tokens = 1;
  for (const char* name : {"dense", "keep08"}) {
    SCOPED_TRACE(name);
    const Policy policy = parse_policy(name, engine->facts());
    const MemoryEstimate estimate = engine->estimate(std::ssize(prompt), 1, policy);
    EXPECT_NEAR(static_cast<double>(estimate.weights), static_cast<double>(held),
                more * static_cast<double>(held));
    Session session(*engine);
    session.prefill(prompt, policy, options);
    session.decode(5);
    EXPECT_EQ(estimate.kv, session.kv_bytes());
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, EstimateOf,
                         testing::Values(Precision::kF32, Precision::kBF16, Precision::kInt8),
                         [](const auto& test) { return std::string(precision_name(test.param)); });

}  // namespace
}  // namespace winnow
