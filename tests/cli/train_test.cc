// winnow train as a program: the whole flow, what goes on after a stop, and what it refuses.
#include <sys/resource.h>

#include <csignal>

#include "cli/kill_when.h"
#include "cli/program.h"

namespace winnow::cli_test {
namespace {

class TrainTest : public testing::Test {
 protected:
  std::vector<std::string> command(const std::string& output,
                                   const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = on_tiny({"train"}, {"--data",
                                                             text_,
                                                             "--policy",
                                                             policy_,
                                                             "--windows",
                                                             "4",
                                                             "--validation-windows",
                                                             "2",
                                                             "--window-tokens",
                                                             "300",
                                                             "--future",
                                                             "16",
                                                             "--tokens-of-window",
                                                             "32",
                                                             "--attention-layers",
                                                             "2",
                                                             "--epochs",
                                                             "2",
                                                             "--precision",
                                                             "f32",
                                                             "-o",
                                                             output});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  Result train(const std::vector<std::string>& more = {}) const {
    return run_program(command(output_, more));
  }
  // The model's answer to a prompt read under the policy with these scorers.
  Result use(const std::string& model, const std::string& policy) const {
    return run_program({"run", "--threads", "1", "-m", model, "-p", long_text(60), "-n", "2", "--json",
                        "--policy", policy + ":learned=" + output_});
  }

  static std::string some_text() {
    std::string text;
    for (int i = 0; i < 300; ++i)
      text += "The lamp of number " + std::to_string(i * 37 % 1000) + " was seen near the " +
              (i % 3 == 0   ? "old mill"
               : i % 3 == 1 ? "harbour"
                            : "green hill") +
              " again. ";
    return text;
  }

  Scratch scratch_;
  std::string text_ = scratch_.write("text.txt", some_text());
  std::string policy_ = scratch_.write("policy.json", kTwoStages);
  std::string output_ = scratch_.file("scorers.safetensors");
};

TEST_F(TrainTest, FromTextToScorersThatPrune) {
  const Result result =
      train({"--end-to-end", "2", "--end-to-end-tokens", "300", "--end-to-end-interval", "1", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json report = json::parse(result.out)["training"];
  EXPECT_EQ(report["scorers"].size(), 2u);
  EXPECT_EQ(report["end_to_end"]["steps"], 2);
  EXPECT_LE(report["end_to_end"]["validation"], report["end_to_end"]["validation_start"]);
  for (const char* line :
       {"stage 2 epoch 1: squares", "stage 4 epoch 2: squares", "end to end step 2: validation KL"})
    EXPECT_NE(result.err.find(line), std::string::npos) << line << " is missing in " << result.err;

  const Result used = use(tiny_llama(), policy_);
  ASSERT_EQ(used.code, 0) << used.err;
  EXPECT_EQ(json::parse(used.out)["stages"].size(), 2u);
  // Scorers in winnow's data are found by the model they were made for.
  std::filesystem::create_directory(scratch_.file("policies"));
  std::filesystem::copy_file(output_, scratch_.file("policies/tiny.safetensors"));
  ::setenv("WINNOW_DATA_DIR", scratch_.file("").c_str(), 1);
  const Result found = run_program(
      on_tiny({"run"}, {"-p", long_text(60), "-n", "2", "--json", "--policy", policy_ + ":learned"}));
  ::unsetenv("WINNOW_DATA_DIR");
  ASSERT_EQ(found.code, 0) << found.err;
  EXPECT_EQ(json::parse(found.out)["tokens"], json::parse(used.out)["tokens"]);
  // Everything is there already.
  const std::string bytes = read_file(output_);
  ASSERT_EQ(train({"--end-to-end", "2", "--end-to-end-tokens", "300", "--end-to-end-interval", "1"}).code, 0);
  EXPECT_EQ(read_file(output_), bytes);
}

TEST_F(TrainTest, EachPartAlone) {
  const Result saliency = train({"--until", "saliency", "--target", "gradient"});
  ASSERT_EQ(saliency.code, 0) << saliency.err;
  EXPECT_FALSE(std::filesystem::exists(output_));
  EXPECT_TRUE(std::filesystem::exists(output_ + ".train/validate-000001.safetensors"));
  ASSERT_EQ(train({"--until", "scorers", "--target", "gradient"}).code, 0);
  const std::string tuned = scratch_.file("tuned.safetensors");
  const Result end_to_end =
      run_program(command(tuned, {"--target", "gradient", "--from", output_, "--end-to-end", "1",
                                  "--end-to-end-tokens", "300", "--loss", "ce"}));
  ASSERT_EQ(end_to_end.code, 0) << end_to_end.err;
  EXPECT_FALSE(std::filesystem::exists(tuned + ".train/train-000000.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(tuned));
}

TEST_F(TrainTest, AKillAtAnyMomentChangesNoBit) {
  ASSERT_EQ(train().code, 0);
  const std::string killed = scratch_.file("killed.safetensors"), folder = killed + ".train/";
  for (const char* part : {"train-000001.safetensors", "validate-000000.safetensors", "scorer-2.safetensors"})
    kill_when(command(killed), [&] { return std::filesystem::exists(folder + part); });
  const Result result = run_program(command(killed));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(read_file(killed), read_file(output_));
}

TEST_F(TrainTest, OtherSettingsDoNotMix) {
  ASSERT_EQ(train({"--until", "saliency"}).code, 0);
  expect_error(train({"--seed", "7"}), 1, "--no-resume starts over");
  EXPECT_EQ(train({"--seed", "7", "--no-resume", "--until", "saliency"}).code, 0);
}

TEST_F(TrainTest, BadData) {
  const auto with = [&](const std::string& name, const std::string& content) {
    return run_program(on_tiny({"train"}, {"--data", scratch_.write(name, content), "--policy", policy_,
                                           "--window-tokens", "300", "--future", "16", "-o", output_}));
  };
  expect_error(with("short.txt", "Too short."), 1, "no usable window in the data");
  expect_error(with("empty.txt", "\n \n"), 1, "empty.txt: no text in it");
  expect_error(with("broken.jsonl", "{\"text\": \"a\"}\n{\"text\":"), 1, "broken.jsonl:2: not JSON");
  expect_error(with("other.jsonl", "{\"title\": \"a\"}"), 1, "other.jsonl:1: neither text nor");
  expect_error(run_program(on_tiny({"train"}, {"--data", "/nowhere/x.txt", "-o", output_})), 1,
               "/nowhere/x.txt");
  expect_error(run_program(on_tiny({"train"}, {"-o", output_})), 2, "--data");
  expect_error(run_program(on_tiny({"train"}, {"--data", text_, "--policy", policy_, "--window-tokens", "100",
                                               "-o", output_})),
               1, "windows of 100 tokens");
}

TEST_F(TrainTest, ScorersOfAnotherModelOrOtherStages) {
  ASSERT_EQ(train().code, 0);
  const std::string first =
      scratch_.write("first.json", R"({"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 0.5}]}})");
  EXPECT_EQ(use(tiny_llama(), first).code, 0);
  expect_error(use(model_path("tiny-qwen2"), first), 1, "these scorers were trained for the model");
  const std::string others =
      scratch_.write("others.json", R"({"version": 1, "tokens": {"stages": [{"layer": 3, "keep": 0.5}]}})");
  expect_error(use(tiny_llama(), others), 1, "no scorer for the stage at layer 3");
  expect_error(run_program(command(scratch_.file("t.safetensors"),
                                   {"--inputs", "both", "--from", output_, "--end-to-end", "1",
                                    "--end-to-end-tokens", "300"})),
               1, "no scorer for the stage at layer 2 with these inputs");
}

// The losses overflow in the first epoch; what was collected stays, and a lower rate uses it again.
TEST_F(TrainTest, LossesThatAreNotFinite) {
  expect_error(train({"--rate", "1e38"}), 1, "stage 2: the loss is not finite in epoch 1, step");
  EXPECT_TRUE(std::filesystem::exists(output_ + ".train/validate-000001.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(output_));
  ASSERT_EQ(train({"--no-resume"}).code, 0);
  const std::string tuned = scratch_.file("tuned.safetensors");
  expect_error(run_program(command(tuned, {"--from", output_, "--end-to-end", "8", "--end-to-end-tokens",
                                           "300", "--end-to-end-rate", "1e38"})),
               1, "end to end: the loss is not finite in step");
  EXPECT_TRUE(std::filesystem::exists(tuned + ".train/end-to-end.safetensors"));
}

// A limit on the size of files stands for a full disk; without it the same command goes on.
TEST_F(TrainTest, ADiskThatIsFull) {
  ASSERT_EQ(train().code, 0);
  const std::string whole = read_file(output_);
  std::filesystem::remove_all(output_ + ".train");
  std::filesystem::remove(output_);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);  // the program inherits both
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Result full = train();
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  expect_error(full, 1, "train-000000.safetensors");
  EXPECT_FALSE(std::filesystem::exists(output_));
  ASSERT_EQ(train().code, 0);
  EXPECT_EQ(read_file(output_), whole);
  expect_error(run_program(command("/dev/full")), 1, "/dev/full: no plain file");
}

}  // namespace
}  // namespace winnow::cli_test
