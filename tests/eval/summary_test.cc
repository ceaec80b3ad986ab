#include "eval/summary.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace winnow {
namespace {

Sample window(double ce, double dense, double without) {
  Sample sample;
  sample.values = {{"ce", ce}, {"ce_dense", dense}, {"ce_without_context", without}};
  return sample;
}

TEST(Estimate, ByHand) {
  const std::vector<Sample> samples{window(2.5, 2, 4), window(3.5, 3, 4)};
  const auto dce = estimate(samples, "dce");
  ASSERT_TRUE(dce);
  EXPECT_DOUBLE_EQ(dce->value, 0.5);
  EXPECT_DOUBLE_EQ(dce->standard_error, 0);
  EXPECT_EQ(dce->n, 2);
  const auto ppl = estimate(samples, "ppl");
  EXPECT_DOUBLE_EQ(ppl->value, std::exp(3.0));
  // Cross-entropies 2.5 and 3.5: standard deviation sqrt(.5), standard error of their mean .5.
  EXPECT_DOUBLE_EQ(ppl->standard_error, 0.5 * std::exp(3.0));
  EXPECT_NEAR(ppl->ci95.low, std::exp(2.5), 1e-9);
  EXPECT_NEAR(ppl->ci95.high, std::exp(3.5), 1e-9);
  // (1.5 + .5) / (2 + 1), not the mean of .75 and .5.
  EXPECT_DOUBLE_EQ(estimate(samples, "context_benefit")->value, 2.0 / 3.0);
  EXPECT_FALSE(estimate(samples, "kl_second_half"));
}

TEST(Estimate, NoBenefitWhereDenseHasNone) {
  EXPECT_FALSE(estimate(std::vector<Sample>{window(2, 4, 3)}, "context_benefit"));
}

TEST(CostSummary, ColdSamplesAreApart) {
  std::vector<Sample> samples(4);
  samples[0].ttft_ms = 100;
  samples[0].cold = true;
  samples[1].ttft_ms = 10;
  samples[2].ttft_ms = 30;
  samples[3].ttft_ms = 20;
  samples[3].prefill.avgtok = 0.2;
  const CostSummary cost = summarize_cost(samples);
  EXPECT_EQ(cost.ttft_ms, 20);
  EXPECT_EQ(cost.ttft_cold_ms, 100);
  EXPECT_DOUBLE_EQ(cost.avgtok, 0.8);
  EXPECT_FALSE(summarize_cost(std::vector<Sample>(2)).ttft_ms);
}

TEST(SampleJson, ThereAndBack) {
  Sample sample = window(1.0 / 3, 2, 3);
  sample.ttft_ms = 1e-7;
  sample.prefill = {.ms = 3.25, .avgtok = 0.1, .density = 0.2, .attn_work = 0.3, .kv_share = 0.4};
  sample.cold = true;
  sample.answer = "a \"b\"\n";
  sample.prompt_tokens = 12;
  EXPECT_EQ(to_json(sample_from_json(nlohmann::json::parse(to_json(sample).dump()), "x")), to_json(sample));
  EXPECT_THROW(sample_from_json({{"values", 3}}, "x"), Error);
}

}  // namespace
}  // namespace winnow
