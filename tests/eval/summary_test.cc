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
  std::vector<Sample> samples;
  for (int i = 0; i < 5; ++i) {
    samples.push_back(window(2.5, 2, 4));
    samples.push_back(window(3.5, 3, 4));
  }
  const auto dce = estimate(samples, "dce");
  ASSERT_TRUE(dce && dce->spread);
  EXPECT_DOUBLE_EQ(dce->value, 0.5);
  EXPECT_DOUBLE_EQ(dce->spread->standard_error, 0);
  EXPECT_EQ(dce->spread->ci95.low, 0.5);
  EXPECT_EQ(dce->n, 10);
  const auto ppl = estimate(samples, "ppl");
  ASSERT_TRUE(ppl && ppl->spread);
  EXPECT_DOUBLE_EQ(ppl->value, std::exp(3.0));
  // Five cross-entropies of 2.5 and five of 3.5: variance 10/36, standard error of their mean 1/6.
  EXPECT_NEAR(ppl->spread->standard_error, std::exp(3.0) / 6, 1e-9);
  EXPECT_NEAR(std::log(ppl->spread->ci95.low), 3 - 1.96 / 6, 0.05);  // means move in steps of .1
  EXPECT_NEAR(std::log(ppl->spread->ci95.high), 3 + 1.96 / 6, 0.05);
  // (1.5 + .5) / (2 + 1), not the mean of .75 and .5.
  EXPECT_DOUBLE_EQ(estimate(samples, "context_benefit")->value, 2.0 / 3.0);
  EXPECT_FALSE(estimate(samples, "kl_second_half"));
}

TEST(Estimate, NoSpreadOfTooFewItems) {
  const std::vector<Sample> samples(4, window(2.5, 2, 4));
  for (const char* measure : {"dce", "ppl", "context_benefit"}) {
    const auto few = estimate(samples, measure);
    ASSERT_TRUE(few) << measure;
    EXPECT_EQ(few->n, 4) << measure;
    EXPECT_FALSE(few->spread) << measure;
  }
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
