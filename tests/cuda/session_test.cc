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

// How far a session is from another that read the same prompt in float32 on the CPU.
struct Distance {
  double lost_rows = 0, kl = 0, decode_kl = 0;
  Distance& operator+=(const Distance& other) {
    lost_rows += other.lost_rows;
    kl += other.kl;
    decode_kl += other.decode_kl;
    return *this;
  }
};

// The real demo model on prompts of a real text, the mean over several lengths. In float32 the GPU gives what
// the CPU gives. In bf16 no two implementations agree better than either does with float32: sums in another
// order are other numbers after four roundings or so. So the CPU's own bf16 says how far is near.
TEST_P(CudaSession, TheDemoModelAgreesWithTheCpu) {
  const char* model = std::getenv("WINNOW_TEST_MODEL");
  if (model == nullptr) GTEST_SKIP() << "WINNOW_TEST_MODEL names no demo model";
  const auto open = [&](const char* device, Precision precision) {
    return Engine::open({.model = model,
                         .random_weights = "",
                         .device = device,
                         .precision = precision,
                         .threads = 0,
                         .progress = {}});
  };
  const auto exact_engine = open("cpu", Precision::kF32), gpu_engine = open("cuda", GetParam()),
             cpu_engine = open("cpu", GetParam());
  const SafetensorsFile golden(WINNOW_TEST_DATA "/models/smollm2.safetensors");
  const SafetensorsTensor& prompt = *golden.find("prompt");
  std::vector<TokenId> tokens(prompt.data.size() / sizeof(TokenId));
  std::memcpy(tokens.data(), prompt.data.data(), prompt.data.size());
  constexpr std::int64_t kLengths[] = {2000, 1900, 1800, 1700, 1500};
  for (const char* name : {"dense", "keep08"}) {
    SCOPED_TRACE(name);
    const Policy policy = parse_policy(name, gpu_engine->facts());
    const auto distance = [&](const Engine& engine, std::int64_t length) {
      Session session(engine), exact(*exact_engine);
      const auto read = std::span(tokens).first(static_cast<std::size_t>(length));
      const std::vector<float> found = logits_after(session, read, policy),
                               expected = logits_after(exact, read, policy);
      Distance result{1 - shared_rows(session, exact), kl(expected, found), 0};
      constexpr int kSteps = 4;
      for (int step = 0; step < kSteps; ++step) {
        const std::span<const float> logits = exact.logits();
        const auto best =
            static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        session.decode(best);
        exact.decode(best);
        result.decode_kl += kl(exact.logits(), session.logits()) / kSteps;
      }
      return result;
    };
    Distance gpu, cpu;
    for (const std::int64_t length : kLengths) {
      gpu += distance(*gpu_engine, length);
      if (!f32()) cpu += distance(*cpu_engine, length);
    }
    for (const auto& [device, sum] : {std::pair("gpu", &gpu), std::pair("cpu", &cpu)}) {
      for (double* mean : {&sum->lost_rows, &sum->kl, &sum->decode_kl})
        *mean /= static_cast<double>(std::size(kLengths));
      const std::string text = "rows in common " + std::to_string(1 - sum->lost_rows) + ", KL " +
                               std::to_string(sum->kl) + ", decoding " + std::to_string(sum->decode_kl);
      RecordProperty(std::string(name) + "_" + device, text);
      std::printf("%s, %s to float32 on the CPU: %s\n", name, device, text.c_str());
    }
    EXPECT_LE(gpu.lost_rows, f32() ? 0 : 1.25 * cpu.lost_rows + 0.001);
    EXPECT_LT(gpu.kl, f32() ? 1e-6 : 1.5 * cpu.kl + 2e-4);
    EXPECT_LT(gpu.decode_kl, f32() ? 1e-6 : 1.5 * cpu.decode_kl + 2e-4);
  }
}

}  // namespace
}  // namespace winnow
