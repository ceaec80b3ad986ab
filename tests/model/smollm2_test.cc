// The real demo model against transformers (scripts/make_smollm2_golden.py): 2,000 tokens of the GPL.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "runtime/session.h"
#include "support/golden_tensors.h"

namespace winnow {
namespace {

class SmolLM2 : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    const char* model = std::getenv("WINNOW_TEST_MODEL");
    if (model == nullptr)
      GTEST_SKIP() << "WINNOW_TEST_MODEL names no demo model (scripts/get_model.sh smollm2-135m)";
    engine_ = Engine::open(
        {.model = model, .random_weights = "", .precision = GetParam(), .threads = 0, .progress = {}});
  }
  std::unique_ptr<Engine> engine_;
  SafetensorsFile golden_{WINNOW_TEST_DATA "/models/smollm2.safetensors"};
};

TEST_P(SmolLM2, LogitsOf2000TokensAndGreedyAnswer) {
  const bool exact = GetParam() == Precision::kF32;
  const auto prompt = read_golden<std::int32_t>(golden_, "prompt");
  ASSERT_EQ(prompt.size(), 2000u);
  const auto probes = read_golden<std::int32_t>(golden_, "probe_pos"),
             best = read_golden<std::int32_t>(golden_, "probe_argmax");
  const auto best_logits = read_golden<float>(golden_, "probe_logit"),
             log_sums = read_golden<float>(golden_, "probe_lse");
  Session session(*engine_);
  std::size_t probe = 0;
  int agreeing = 0;
  double worst_log_probability = 0;
  PrefillOptions options;
  options.all_logits = [&](std::int64_t first, const MatrixView& logits) {
    for (; probe < probes.size() && probes[probe] < first + logits.rows; ++probe) {
      const float* row = logits.row<float>(probes[probe] - first);
      const float top = *std::max_element(row, row + logits.cols);
      double sum = 0;
      for (std::int64_t i = 0; i < logits.cols; ++i) sum += std::exp(static_cast<double>(row[i] - top));
      // A near tie may fall the other way: within the bound on log-probabilities below.
      agreeing += row[best[probe]] >= top - (exact ? 1e-3f : 0.0f);
      const double found = row[best[probe]] - top - std::log(sum),
                   expected = best_logits[probe] - log_sums[probe];
      worst_log_probability = std::max(worst_log_probability, std::abs(found - expected));
    }
  };
  ASSERT_TRUE(session.prefill(prompt, Policy{}, options));
  EXPECT_EQ(probe, probes.size());
  const auto expected = read_golden<float>(golden_, "last_logits");
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, static_cast<double>(std::abs(session.logits()[i] - expected[i])));
    largest = std::max(largest, static_cast<double>(std::abs(expected[i])));
  }
  RecordProperty("relative_error", std::to_string(worst / largest));
  RecordProperty("worst_log_probability_difference", std::to_string(worst_log_probability));
  // bf16: 8-bit mantissas through 30 layers; about twice what was measured (0.014 of the largest logit, 0.05
  // nats).
  EXPECT_LT(worst / largest, exact ? 1e-4 : 0.03);
  EXPECT_LT(worst_log_probability, exact ? 1e-3 : 0.1);
  EXPECT_GE(agreeing, exact ? static_cast<int>(probes.size()) : static_cast<int>(probes.size()) * 9 / 10);

  if (!exact) return;  // one near tie would end the comparison
  for (const std::int32_t token : read_golden<std::int32_t>(golden_, "decode_tokens")) {
    const auto logits = session.logits();
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), token);
    session.decode(token);
  }
}

// Decoding runs on the quantised weights as stored with activations rounded to int8, prefill on bf16 weights.
TEST_P(SmolLM2, DecodingAgreesWithPrefill) {
  const bool exact = GetParam() == Precision::kF32;
  const auto prompt = read_golden<std::int32_t>(golden_, "prompt");
  constexpr std::size_t kPrompt = 200, kDecoded = 24;
  const auto tokens = std::span(prompt).first(kPrompt + kDecoded);
  std::vector<std::vector<float>> expected;
  PrefillOptions options;
  options.all_logits = [&](std::int64_t first, const MatrixView& logits) {
    for (std::int64_t i = 0; i < logits.rows; ++i) {
      if (first + i >= static_cast<std::int64_t>(kPrompt)) {
        expected.emplace_back(logits.row<float>(i), logits.row<float>(i) + logits.cols);
      }
    }
  };
  ASSERT_TRUE(Session(*engine_).prefill(tokens, Policy{}, options));
  Session session(*engine_);
  ASSERT_TRUE(session.prefill(tokens.first(kPrompt), Policy{}, {}));
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < kDecoded; ++i) {
    session.decode(tokens[kPrompt + i]);
    for (std::size_t t = 0; t < expected[i].size(); ++t) {
      worst = std::max(worst, static_cast<double>(std::abs(session.logits()[t] - expected[i][t])));
      largest = std::max(largest, static_cast<double>(std::abs(expected[i][t])));
    }
  }
  RecordProperty("relative_error", std::to_string(worst / largest));
  EXPECT_LT(worst / largest, exact ? 1e-4 : 0.04);
}

INSTANTIATE_TEST_SUITE_P(Precisions, SmolLM2, testing::Values(Precision::kF32, Precision::kBF16),
                         [](const auto& param_info) {
                           return param_info.param == Precision::kF32 ? "f32" : "bf16";
                         });

}  // namespace
}  // namespace winnow
