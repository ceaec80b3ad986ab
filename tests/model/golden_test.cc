// Logits of prefill and of greedy decoding against transformers (scripts/make_tiny_models.py), for every
// family, from both file formats, on every backend (on a GPU where there is
// one).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cpu/cpu_features.h"
#include "runtime/session.h"
#include "support/golden_tensors.h"

namespace winnow {
namespace {

std::vector<TokenId> read_ids(const SafetensorsFile& file, const char* name) {
  if (file.find(name)->dtype_name == "I32") return read_golden<std::int32_t>(file, name);
  const auto wide = read_golden<std::int64_t>(file, name);
  return {wide.begin(), wide.end()};
}

TokenId argmax(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double largest_difference(std::span<const float> found, std::span<const float> expected) {
  double difference = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, static_cast<double>(std::abs(found[i] - expected[i])));
  }
  return difference;
}

double largest(std::span<const float> values) {
  double result = 0;
  for (const float value : values) result = std::max(result, static_cast<double>(std::abs(value)));
  return result;
}

struct Case {
  std::string model;   // under golden/models
  std::string golden;  // folder with golden.safetensors
  const char* device;
  Precision precision;
};

std::string path(const std::string& name) { return WINNOW_TEST_DATA "/models/" + name; }

void PrintTo(const Case& c, std::ostream* out) { *out << c.model << " on " << c.device; }

class Golden : public testing::TestWithParam<Case> {
 protected:
  Golden() : golden_(path(GetParam().golden) + "/golden.safetensors") {}

  void SetUp() override {
    if (std::string_view(GetParam().device) == "cuda") {
      try {
        make_cuda_backend(GetParam().precision, 0);
      } catch (const Error& error) {
        GTEST_SKIP() << error.what();
      }
    }
    engine_ = Engine::open({.model = path(GetParam().model),
                            .random_weights = "",
                            .device = GetParam().device,
                            .precision = GetParam().precision,
                            .threads = 2,
                            .progress = {}});
  }

  // The largest difference relative to the largest logit. bf16 keeps 8 bits of weights, activations and
  // caches, and the random models amplify that: the reference backend, which accumulates in double, reaches
  // 0.086 as well.
  double bound() const { return GetParam().precision == Precision::kF32 ? 1e-4 : 0.12; }

  void expect_logits(std::span<const float> found, std::span<const float> expected) const {
    ASSERT_EQ(found.size(), expected.size());
    EXPECT_LT(largest_difference(found, expected) / largest(expected), bound());
  }

  SafetensorsFile golden_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(Golden, PrefillLogitsOfEveryPosition) {
  const auto expected = read_golden<float>(golden_, "prefill_logits");
  std::vector<float> found;
  Session session(*engine_);
  PrefillOptions options;
  options.all_logits = [&](std::int64_t first, const MatrixView& logits) {
    EXPECT_EQ(first * engine_->arch().vocab, static_cast<std::int64_t>(found.size()));
    found.insert(found.end(), logits.row<float>(0), logits.row<float>(0) + logits.rows * logits.cols);
  };
  ASSERT_TRUE(session.prefill(read_ids(golden_, "prompt"), Policy{}, options));
  expect_logits(found, expected);
  const auto vocab = static_cast<std::size_t>(engine_->arch().vocab);
  EXPECT_EQ(argmax(session.logits()), argmax(std::span(found).last(vocab)));
}

TEST_P(Golden, GreedyTokensAndTheirLogits) {
  const auto tokens = read_ids(golden_, "decode_tokens");
  const auto expected = read_golden<float>(golden_, "decode_logits");
  const auto vocab = static_cast<std::size_t>(engine_->arch().vocab);
  ASSERT_EQ(expected.size(), tokens.size() * vocab);
  Session session(*engine_);
  PrefillOptions options;
  options.reserve_tokens = 3;  // so that the caches have to grow while decoding
  ASSERT_TRUE(session.prefill(read_ids(golden_, "prompt"), Policy{}, options));
  std::size_t equal = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "step " << i);
    const auto expected_now = std::span(expected).subspan(i * vocab, vocab);
    expect_logits(session.logits(), expected_now);
    equal += argmax(session.logits()) == tokens[i];
    session.decode(tokens[i]);
  }
  // The smallest golden margins are below what bf16 can tell apart: there a few choices may differ.
  EXPECT_GE(equal, GetParam().precision == Precision::kF32 ? tokens.size() : tokens.size() - 3) << equal;
}

TEST_P(Golden, ASingleTokenPrompt) {
  const auto expected = read_golden<float>(golden_, "prefill1_logits");
  Session session(*engine_);
  ASSERT_TRUE(session.prefill(read_ids(golden_, "prompt1"), Policy{}, {}));
  expect_logits(session.logits(), expected);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string family : {"tiny-llama", "tiny-qwen2", "tiny-gpt2", "tiny-llama3", "tiny-mistral",
                                   "tiny-qwen3", "tiny-stablelm", "tiny-gemma3"}) {
    for (const std::string& model : {family, family + ".gguf"}) {
      for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
        all.push_back({model, family, "cpu", precision});
        all.push_back({model, family, "reference", precision});
        if (model == family) all.push_back({model, family, "cuda", precision});
      }
    }
  }
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {  // GGUF has no dynamic scaling
    all.push_back({"tiny-dynamic", "tiny-dynamic", "cpu", precision});
    all.push_back({"tiny-dynamic", "tiny-dynamic", "reference", precision});
  }
  return all;
}

// Random weights are far more sensitive to 8 bits than trained ones, so int8 is held against the reference's.
TEST(Int8, TheBackendsAgree) {
  if (!cpu::has_avx512_vnni()) GTEST_SKIP() << "needs AVX512-VNNI";
  const SafetensorsFile golden(path("tiny-llama/golden.safetensors"));
  const auto prompt = read_ids(golden, "prompt");
  std::vector<std::vector<float>> logits;
  for (const char* device : {"reference", "cpu"}) {
    const auto engine = Engine::open({.model = path("tiny-llama"),
                                      .random_weights = "",
                                      .device = device,
                                      .precision = Precision::kInt8,
                                      .threads = 2,
                                      .progress = {}});
    Session session(*engine);
    ASSERT_TRUE(session.prefill(prompt, Policy{}, {}));
    logits.emplace_back(session.logits().begin(), session.logits().end());
  }
  EXPECT_LT(largest_difference(logits[1], logits[0]) / largest(logits[0]), 0.12);
}

// Decoding over caches in 8 bits against transformers, which keeps float32. A code is off by up to 1/254 of
// its row's largest value, as much as bf16 loses at every step, which these random models amplify to 0.12:
// the same bound.
TEST(Q8, DecodesEveryFamily) {
  for (const std::string model : {"tiny-llama", "tiny-qwen2", "tiny-gpt2", "tiny-llama3", "tiny-mistral",
                                  "tiny-qwen3", "tiny-stablelm", "tiny-gemma3", "tiny-dynamic"}) {
    SCOPED_TRACE(model);
    const SafetensorsFile golden(path(model + "/golden.safetensors"));
    const auto expected = read_golden<float>(golden, "decode_logits");
    const auto tokens = read_ids(golden, "decode_tokens");
    for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
      const auto engine = Engine::open({.model = path(model),
                                        .random_weights = "",
                                        .precision = precision,
                                        .kv = KvType::kQ8,
                                        .threads = 2,
                                        .progress = {}});
      const auto vocab = static_cast<std::size_t>(engine->arch().vocab);
      Session session(*engine);
      PrefillOptions options;
      options.reserve_tokens = 3;  // so that the caches have to grow while decoding
      ASSERT_TRUE(session.prefill(read_ids(golden, "prompt"), Policy{}, options));
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        const auto expected_now = std::span(expected).subspan(i * vocab, vocab);
        EXPECT_LT(largest_difference(session.logits(), expected_now) / largest(expected_now), 0.12)
            << precision_name(precision) << ", step " << i;
        session.decode(tokens[i]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::ValuesIn(cases()), [](const auto& param_info) {
  std::string name = param_info.param.model + "_" + param_info.param.device + "_" +
                     precision_name(param_info.param.precision);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
  return name;
});

}  // namespace
}  // namespace winnow
