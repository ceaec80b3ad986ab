// Whole prompts on the GPU against the CPU: the same tokens kept, the same answers. Skips where there is no
// GPU; the tests on the demo model where WINNOW_TEST_MODEL does not name it.
#include <cstdlib>

#include "core/error.h"
#include "formats/safetensors.h"
#include "sparsity/policy.h"
#include "support/session_testing.h"

namespace winnow {
namespace {

bool gpu_is_there(std::string& why) {
  try {
    make_cuda_backend(Precision::kF32, 0);
    return true;
  } catch (const Error& error) {
    why = error.what();
    return false;
  }
}

// Share of the rows of all caches that hold a token which the other session's cache of that layer holds too.
double shared_rows(const Session& a, const Session& b) {
  double shared = 0, all = 0;
  for (std::int64_t layer = 0; layer < std::ssize(a.kv_lens()); ++layer) {
    const auto rows = a.cached_positions(layer), others = b.cached_positions(layer);
    EXPECT_EQ(rows.size(), others.size()) << "layer " << layer;
    for (const std::int32_t position : rows) {
      shared += std::binary_search(others.begin(), others.end(), position);
      all += 1;
    }
  }
  return shared / all;
}

double kl(std::span<const float> expected, std::span<const float> found) {
  const auto log_sum = [](std::span<const float> logits) {
    const double top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit - top);
    return top + std::log(sum);
  };
  const double of_expected = log_sum(expected), of_found = log_sum(found);
  double result = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double log_p = expected[i] - of_expected;
    result += std::exp(log_p) * (log_p - (found[i] - of_found));
  }
  return result;
}

class CudaSession : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    std::string why;
    if (!gpu_is_there(why)) GTEST_SKIP() << why;
  }
  bool f32() const { return GetParam() == Precision::kF32; }
};

INSTANTIATE_TEST_SUITE_P(Gpu, CudaSession, testing::Values(Precision::kF32, Precision::kBF16),
                         [](const auto& param_info) {
                           return std::string(param_info.param == Precision::kF32 ? "f32" : "bf16");
                         });

TEST_P(CudaSession, KeepsTheSameTokensAndDecodesAlike) {
  const std::vector<TokenId> tokens = some_tokens(120);
  for (const std::string model : {"tiny-llama", "tiny-qwen2"}) {
    for (const ScorerKind scorer : {ScorerKind::kAttention, ScorerKind::kNorm, ScorerKind::kRecency}) {
      for (const KvMode kv : {KvMode::kOwn, KvMode::kFinal}) {
        SCOPED_TRACE(testing::Message() << model << ", scorer " << static_cast<int>(scorer));
        Policy policy = staged(scorer, 0.6);
        policy.tokens.kv = kv;
        Session gpu(engine(model, "cuda", GetParam())), cpu(engine(model, "cpu", GetParam()));
        const std::vector<float> found = logits_after(gpu, tokens, policy),
                                 expected = logits_after(cpu, tokens, policy);
        // The scores of random weights nearly tie; bf16 rounds them apart.
        EXPECT_GE(shared_rows(gpu, cpu), f32() ? 1.0 : 0.8);
        if (!f32()) continue;
        expect_near(found, expected, 1e-4f);
        for (TokenId token = 5; token < 15; ++token) {
          gpu.decode(token);
          cpu.decode(token);
          expect_near(gpu.logits(), cpu.logits(), 1e-4f);
        }
      }
    }
  }
}

TEST_P(CudaSession, TheSamePromptTwiceGivesTheSameBits) {
  const std::vector<TokenId> tokens = some_tokens(100);
  const Engine& e = engine("tiny-llama", "cuda", GetParam());
  EXPECT_EQ(fresh_logits(e, tokens, staged(ScorerKind::kAttention, 0.5)),
            fresh_logits(e, tokens, staged(ScorerKind::kAttention, 0.5)));
  EXPECT_EQ(fresh_logits(e, tokens, staged(ScorerKind::kAttention, 1.0)), fresh_logits(e, tokens, Policy{}));
}

// The real demo model, 2,000 tokens of a real text.
TEST_P(CudaSession, TheDemoModelAgreesWithTheCpu) {
  const char* model = std::getenv("WINNOW_TEST_MODEL");
  if (model == nullptr) GTEST_SKIP() << "WINNOW_TEST_MODEL names no demo model";
  const auto open = [&](const char* device) {
    return Engine::open({.model = model,
                         .random_weights = "",
                         .device = device,
                         .precision = GetParam(),
                         .threads = 0,
                         .progress = {}});
  };
  const auto gpu_engine = open("cuda"), cpu_engine = open("cpu");
  const SafetensorsFile golden(WINNOW_TEST_DATA "/models/smollm2.safetensors");
  const SafetensorsTensor& prompt = *golden.find("prompt");
  std::vector<TokenId> tokens(prompt.data.size() / sizeof(TokenId));
  std::memcpy(tokens.data(), prompt.data.data(), prompt.data.size());
  for (const char* name : {"dense", "keep08"}) {
    SCOPED_TRACE(name);
    const Policy policy = parse_policy(name, gpu_engine->facts());
    Session gpu(*gpu_engine), cpu(*cpu_engine);
    const std::vector<float> found = logits_after(gpu, tokens, policy),
                             expected = logits_after(cpu, tokens, policy);
    const double shared = shared_rows(gpu, cpu), difference = kl(expected, found);
    RecordProperty(std::string(name) + "_shared_rows", std::to_string(shared));
    RecordProperty(std::string(name) + "_kl", std::to_string(difference));
    std::printf("%s: rows in common %.5f, KL of the last logits %.3g\n", name, shared, difference);
    EXPECT_GE(shared, f32() ? 1.0 : 0.995);
    EXPECT_LT(difference, 1e-3);
    for (int step = 0; step < 8; ++step) {
      const auto best = std::max_element(expected.begin(), expected.end()) - expected.begin();
      gpu.decode(static_cast<TokenId>(best));
      cpu.decode(static_cast<TokenId>(best));
      EXPECT_LT(kl(cpu.logits(), gpu.logits()), 1e-3) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace winnow
