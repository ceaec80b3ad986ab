#include "cli/program.h"

namespace winnow::cli_test {
namespace {

class ProfileTest : public testing::Test {
 protected:
  json profile(const std::string& mode, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = on_tiny({"profile", mode}, {"-o", output_});
    arguments.insert(arguments.end(), more.begin(), more.end());
    result_ = run_program(arguments);
    EXPECT_EQ(result_.code, 0) << result_.err;
    return result_.code == 0 ? json::parse(read_file(output_)) : json();
  }

  Scratch scratch_;
  std::string output_ = scratch_.file("out.json");
  std::string policy_ = scratch_.write("two.json", kTwoStages);
  Result result_;
};

TEST_F(ProfileTest, EveryFieldOfEveryCase) {
  const json report = profile("end2end", {"--lengths", "200,100", "--policies", "dense," + policy_,
                                          "--new-tokens", "5", "--repeat", "3"});
  for (const char* key : {"winnow", "date", "machine", "model", "backend", "precision", "threads", "seed",
                          "text", "repeat", "policies"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  const json& results = report["results"];
  ASSERT_EQ(results.size(), 4u);
  for (std::size_t i = 0; i < results.size(); ++i) {
    const json& one = results[i];
    for (const char* key : {"policy",
                            "length",
                            "new_tokens",
                            "prefill_ms",
                            "ttft_ms",
                            "cold_ms",
                            "decode_ms",
                            "total_ms",
                            "stages",
                            "speedup_prefill",
                            "speedup_total",
                            "kv_lens",
                            "kv_bytes",
                            "estimated_memory_bytes",
                            "peak_memory_bytes",
                            "avgtok",
                            "density",
                            "flops",
                            "gflops_per_s",
                            "decode_gbytes_per_s",
                            "attn_work",
                            "plan_ms",
                            "attention_layers",
                            "samples"}) {
      EXPECT_TRUE(one.contains(key)) << key;
    }
    EXPECT_EQ(one["length"], i < 2 ? 100 : 200);  // ascending
    EXPECT_EQ(one["cold_ms"].is_null(), i != 0);
    EXPECT_EQ(one["samples"]["prefill_ms"].size(), 3u);
    EXPECT_EQ(one["samples"]["decode_ms"].size(), 3u);
    EXPECT_GE(one["ttft_ms"], one["prefill_ms"]);
    EXPECT_GT(one["decode_ms"], 0.0);
    EXPECT_EQ(one["kv_lens"].size(), 6u);
  }
  EXPECT_EQ(results[0]["speedup_prefill"], 1.0);
  EXPECT_EQ(results[0]["avgtok"], 1.0);
  EXPECT_EQ(results[3]["kv_lens"], (json{200, 200, 100, 100, 50, 50}));
  EXPECT_EQ(results[3]["stages"].size(), 2u);
  EXPECT_LT(results[3]["flops"], results[2]["flops"]);
  EXPECT_LT(results[3]["attn_work"], results[2]["attn_work"]);
  EXPECT_NE(result_.out.find("prefill ms"), std::string::npos);
}

TEST_F(ProfileTest, DensityOfBlockSelection) {
  const std::string local = scratch_.write("local.json", kLocalBlocks);
  const json report =
      profile("prefill", {"--lengths", "200", "--policies", "dense," + local, "--repeat", "1"});
  const json &dense = report["results"][0], &sparse = report["results"][1];
  EXPECT_EQ(dense["density"], 1.0);
  EXPECT_EQ(dense["attention_layers"], json::array());
  EXPECT_LT(sparse["density"], 0.5);
  EXPECT_LT(sparse["attn_work"], dense["attn_work"]);
  EXPECT_EQ(sparse["avgtok"], 1.0);
  EXPECT_EQ(sparse["attention_layers"].size(), 6u);
  EXPECT_NE(result_.out.find("density"), std::string::npos);
  EXPECT_EQ(report["policies"][local]["attention"]["selector"], "local");
}

TEST_F(ProfileTest, MedianOfTheSamples) {
  const json report = profile("prefill", {"--lengths", "64", "--policies", "dense", "--repeat", "3"});
  const json& one = report["results"][0];
  std::vector<double> samples = one["samples"]["prefill_ms"];
  std::sort(samples.begin(), samples.end());
  EXPECT_EQ(one["prefill_ms"], samples[1]);
  EXPECT_EQ(one["decode_ms"], 0.0);
  EXPECT_EQ(one["new_tokens"], 1);
  EXPECT_TRUE(one["decode_gbytes_per_s"].is_null());
}

TEST_F(ProfileTest, WithoutDenseNoSpeedup) {
  const json report = profile("prefill", {"--lengths", "64", "--policies", policy_, "--repeat", "1"});
  EXPECT_TRUE(report["results"][0]["speedup_prefill"].is_null());
}

TEST_F(ProfileTest, LengthsBeyondTheContextAreSkipped) {
  const json report = profile("prefill", {"--lengths", "64,5000", "--policies", "dense", "--repeat", "1"});
  EXPECT_EQ(report["results"].size(), 1u);
  ASSERT_EQ(report["skipped"].size(), 1u);
  EXPECT_EQ(report["skipped"][0]["length"], 5000);
  EXPECT_NE(result_.err.find("5000"), std::string::npos);
  // 512 fits when only one token is made of it: the last one is not read.
  EXPECT_EQ(
      profile("prefill", {"--lengths", "512", "--policies", "dense", "--repeat", "1"})["results"].size(), 1u);
  expect_error(run_program(on_tiny({"profile", "end2end"}, {"--lengths", "512", "--policies", "dense"})), 1,
               "context");
}

TEST_F(ProfileTest, TextOfAFile) {
  const std::string text = scratch_.write("text.txt", "corn and wind. ");
  const json report =
      profile("prefill", {"--lengths", "100", "--policies", "dense", "--repeat", "1", "-f", text});
  EXPECT_EQ(report["text"]["source"], "text.txt");
  EXPECT_EQ(report["results"][0]["length"], 100);
  expect_error(run_program(on_tiny({"profile", "prefill"}, {"--lengths", "64", "--policies", "dense", "-f",
                                                            scratch_.write("empty.txt", "")})),
               1, "empty");
}

TEST_F(ProfileTest, OutputIsCheckedBeforeTheWork) {
  expect_error(run_program(on_tiny({"profile", "prefill"}, {"-o", scratch_.file("no/out.json")})), 1,
               "no/out.json");
  expect_error(run_program(on_tiny({"profile", "prefill"}, {"--policies", "dense,keep99", "-o", output_})), 1,
               "keep99");
  EXPECT_FALSE(std::filesystem::exists(output_));
}

}  // namespace
}  // namespace winnow::cli_test
