#include <cmath>
#include <cstring>

#include "cli/program.h"

namespace winnow::cli_test {
namespace {

class SparsityTest : public testing::Test {
 protected:
  std::vector<std::string> command(const std::vector<std::string>& more) const {
    return on_tiny({"sparsity"}, more);
  }
  json sparsity(std::vector<std::string> more) {
    more.insert(more.end(), {"-o", output_});
    result_ = run_program(command(more));
    EXPECT_EQ(result_.code, 0) << result_.err;
    return result_.code == 0 ? json::parse(read_file(output_)) : json();
  }

  Scratch scratch_;
  std::string text_ = scratch_.write("text.txt", long_text(300));
  std::string output_ = scratch_.file("out.json");
  Result result_;
};

TEST_F(SparsityTest, EveryField) {
  const json report = sparsity(
      {"-f", text_, "--length", "96", "--block", "4,1x4", "--thresholds", "0.1,0.02", "--end-to-end", "4x4"});
  for (const char* key : {"winnow", "date", "machine", "model", "backend", "precision", "threads", "seed",
                          "command", "length", "text", "layers", "sweep", "chosen"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  EXPECT_EQ(report["length"], 96);
  ASSERT_EQ(report["text"].size(), 1u);
  EXPECT_EQ(report["text"][0]["source"], "text.txt");
  EXPECT_EQ(report["text"][0]["xxh64"].get<std::string>().size(), 16u);
  ASSERT_EQ(report["layers"].size(), 6u);
  for (const json& layer : report["layers"]) {
    for (const char* key : {"layer", "shape", "probability_min", "probability_max", "row_sum_error", "below",
                            "positions", "blocks", "heads"}) {
      EXPECT_TRUE(layer.contains(key)) << key;
    }
    EXPECT_LT(layer["row_sum_error"], 1e-4);
    EXPECT_LE(layer["below"]["0.05"]["causal"], layer["below"]["0.05"]["all"]);
    EXPECT_EQ(layer["blocks"].size(), 2u);
    EXPECT_EQ(layer["positions"]["windows"]["causal"].size(), 4u);  // 25 + 25 + 25 + 21 rows
  }
  ASSERT_EQ(report["sweep"].size(), 4u);
  for (const json& point : report["sweep"]) {
    for (const char* key : {"block_q", "block_k", "threshold", "pruned_all", "pruned_causal", "density",
                            "density_second_half", "row_kl_mean", "row_kl_max", "minus_ln_kept", "empty_rows",
                            "verdict", "end_to_end", "by_layer", "by_window"}) {
      EXPECT_TRUE(point.contains(key)) << key;
    }
    EXPECT_LE(point["pruned_causal"], point["pruned_all"]);
    EXPECT_EQ(point["by_layer"]["row_kl_mean"].size(), 6u);
    EXPECT_EQ(point["end_to_end"].is_null(), point["block_q"] == 1);
  }
  EXPECT_EQ(report["sweep"][0]["threshold"], 0.02);  // ascending, as numbers people write
  const json& run = report["sweep"][1]["end_to_end"];
  for (const char* key :
       {"kl", "kl_second_half", "dce", "top1", "ppl", "ppl_dense", "density", "logit_error", "samples"})
    EXPECT_TRUE(run.contains(key)) << key;
  EXPECT_EQ(run["positions"], 96);
  EXPECT_EQ(run["samples"].size(), 8u);
  EXPECT_NEAR(std::log(run["ppl"].get<double>() / run["ppl_dense"].get<double>()), run["dce"], 1e-9);
  EXPECT_EQ(report["chosen"].size(), 2u);
  EXPECT_NE(result_.out.find("row KL"), std::string::npos);
  EXPECT_NE(result_.out.find("dCE"), std::string::npos);
}

// The built-in texts are read when no file is named: one prompt each, every position counted.
TEST_F(SparsityTest, BuiltInTexts) {
  const json report = sparsity({"--length", "40", "--block", "8", "--thresholds", "0.05"});
  EXPECT_EQ(report["text"].size(), 3u);
  EXPECT_EQ(report["sweep"][0]["end_to_end"]["positions"], 120);
  const json mixed =
      sparsity({"--text", "kjv," + text_, "--length", "40", "--block", "8", "--end-to-end", "none"});
  EXPECT_EQ(mixed["text"].size(), 2u);
  EXPECT_EQ(sparsity({"--text", "kjv", "--length", "40", "--block", "8", "--end-to-end",
                      "none"})["text"][0]["source"],
            "kjv");
}

TEST_F(SparsityTest, Gpt2) {
  const Result result =
      run_program({"sparsity", "-m", model_path("tiny-gpt2.gguf"), "--threads", "1", "-f", text_, "--length",
                   "48", "--block", "4", "--thresholds", "0.05", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_GT(report["sweep"][0]["end_to_end"]["ppl"], 1.0);
  EXPECT_EQ(report["sweep"].size(), 1u);
}

TEST_F(SparsityTest, ArraysAndPictures) {
  const std::string dump = scratch_.file("dump"), maps = scratch_.file("maps");
  const json report =
      sparsity({"-f", text_, "--length", "32", "--block", "4", "--end-to-end", "none", "--layers", "0,5",
                "--heads", "1", "--dump", dump, "--maps", maps, "--map-at", "4:0.05"});
  EXPECT_EQ(report["files"],
            (json{"layer00_head01.npy", "layer00_head01.png", "layer05_head01.npy", "layer05_head01.png"}));
  EXPECT_EQ(read_file(maps + "/layer05_head01.png").substr(1, 3), "PNG");
  const std::string array = read_file(dump + "/layer00_head01.npy");
  ASSERT_EQ(array.size(), 128u + 32 * 32 * 4);
  std::vector<float> weights(32 * 32);
  std::memcpy(weights.data(), array.data() + 128, array.size() - 128);
  for (int row = 0; row < 32; ++row) {
    double sum = 0;
    for (int key = 0; key < 32; ++key) {
      sum += weights[row * 32 + key];
      if (key > row) {
        EXPECT_EQ(weights[row * 32 + key], 0);
      }
    }
    EXPECT_NEAR(sum, 1, 1e-5);
  }
}

TEST_F(SparsityTest, MistakesAreNamedBeforeTheWork) {
  expect_error(run_program(command({"-f", scratch_.write("short.txt", "corn and wind"), "--length", "100"})),
               1, "short.txt");
  expect_error(run_program(command({"--length", "5000"})), 1, "context");
  expect_error(run_program(command({"--block", "16y4"})), 1, "16y4");
  expect_error(run_program(command({"--block", "48"})), 1, "48");
  expect_error(run_program(command({"--end-to-end", "some"})), 1, "some");
  expect_error(run_program(command({"--layers", "6", "--dump", scratch_.file("dump")})), 1, "--layers 6");
  expect_error(run_program(command({"--layers", "0"})), 2, "--dump");
  std::string many = "0.001";
  for (int i = 2; i <= 101; ++i) many += "," + std::to_string(0.001 * i);
  expect_error(run_program(command({"--thresholds", many})), 1, "--thresholds: 101 values");
  expect_error(run_program(command({"--heads", "-1", "--dump", scratch_.file("dump")})), 1, "--heads -1");
  expect_error(run_program(command({"--text", "bible"})), 1, "kjv");
  expect_error(run_program(command({"-f", scratch_.file("none.txt")})), 1, "none.txt");
  expect_error(run_program(command({"-f", scratch_.write("empty.txt", "")})), 1, "empty");
  expect_error(run_program(command({"-o", scratch_.file("no/out.json")})), 1, "no/out.json");
  expect_error(run_program(command({"--thresholds", "0"})), 2, "--thresholds 0");
  expect_error(run_program(command({"--thresholds", "1.5"})), 2, "1.5");
  expect_error(run_program(command({"--map-at", "64x64", "--maps", scratch_.file("maps")})), 2, "64x64");
  expect_error(run_program(command({"--map-at", "64x64:0.1"})), 2, "--maps");
  expect_error(run_program(command({"--seed", "1"})), 2, "--seed");
  expect_error(run_program({"sparsity", "--random-weights", "qwen2-0.5b"}), 1, "random weights");
}

}  // namespace
}  // namespace winnow::cli_test
