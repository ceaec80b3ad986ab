// The estimate of memory against what is held: weights in all their forms, rotary tables, caches.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "model/weight_sizes.h"
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

class EstimateOf : public testing::TestWithParam<Precision> {};

// Before loading; packing pads tiny matrices to whole panels, so float32's are the exact ones.
TEST(LoadedBytes, AreThoseOfTheWeightsOfEveryFamily) {
  for (const char* family : {"tiny-llama", "tiny-qwen3", "tiny-gemma3", "tiny-gpt2", "tiny-dynamic"}) {
    SCOPED_TRACE(family);
    const auto engine = open(WINNOW_TEST_DATA "/models/" + std::string(family), Precision::kF32);
    const Architecture& arch = engine->arch();
    EXPECT_EQ(decode_form_bytes(engine->source(), arch, engine->backend()), 0);
    const std::int64_t loaded = loaded_bytes(0, arch, arch, engine->backend());
    const std::int64_t packed = packed_bytes(arch, engine->backend());
    EXPECT_LE(packed, engine->weights().bytes);
    EXPECT_GE(1.2 * static_cast<double>(packed), static_cast<double>(engine->weights().bytes));
    EXPECT_EQ(loaded - packed, rope_bytes(arch));
    if (arch.rope_scaling.kind != RopeScalingKind::kDynamic) {  // its sessions hold the table
      EXPECT_EQ(rope_bytes(arch), rope_held(*engine));
    }
  }
}

TEST_P(EstimateOf, TheDemoModelIsWhatItHolds) {
  const char* model = std::getenv("WINNOW_TEST_MODEL");
  if (model == nullptr) GTEST_SKIP() << "WINNOW_TEST_MODEL names no demo model";
  const auto engine = open(model, GetParam());
  const Architecture& arch = engine->arch();
  const std::int64_t held = engine->weights().bytes + rope_held(*engine);
  EXPECT_EQ(decode_form_bytes(engine->source(), arch, engine->backend()),
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
