#include <filesystem>

#include "cli/program.h"

namespace winnow::cli_test {
namespace {

constexpr const char* kPrompts =
    "{\"id\": \"a\", \"prompt\": \"corn and wind\", \"max_tokens\": 3}\n"
    "\n"
    "{\"id\": 7, \"messages\": [{\"role\": \"user\", \"content\": \"corn?\"}]}\n"
    "{\"prompt\": \"the river\"}\n";

class Batch : public testing::Test {
 protected:
  Result run_batch(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = on_tiny({"batch"}, {prompts_, "-o", answers_, "-n", "5"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments);
  }
  std::vector<json> answers() {
    std::vector<json> result;
    for (const std::string& line : lines_of(read_file(answers_))) result.push_back(json::parse(line));
    return result;
  }

  Scratch scratch_;
  std::string prompts_ = scratch_.write("prompts.jsonl", kPrompts);
  std::string answers_ = scratch_.file("answers.jsonl");
};

TEST_F(Batch, AnswersEveryLine) {
  const Result result = run_batch();
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  const std::vector<json> lines = answers();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["id"], "a");
  EXPECT_EQ(lines[1]["id"], 7);
  EXPECT_FALSE(lines[2].contains("id"));
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["index"], i);
    EXPECT_EQ(lines[i]["tokens"].size(), i == 0 ? 3u : 5u);
    for (const char* key : {"text", "prompt_tokens", "kept_tokens", "ttft_ms", "prompt_hash", "run"}) {
      EXPECT_TRUE(lines[i].contains(key)) << key;
    }
  }
  const json alone = json::parse(run_program(on_tiny({"run", "--json"}, {"-p", "the river", "-n", "5"})).out);
  EXPECT_EQ(lines[2]["tokens"], alone["tokens"]);
}

TEST_F(Batch, GoesOnWhereItStopped) {
  ASSERT_EQ(run_batch().code, 0);
  const std::string whole = read_file(answers_);
  const std::vector<std::string> lines = lines_of(whole);
  // As after a crash: one answer, and half of the second.
  write_file(answers_, lines[0] + "\n" + lines[1].substr(0, lines[1].size() / 2));
  const Result resumed = run_batch();
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("1 answers kept"), std::string::npos) << resumed.err;
  const std::vector<json> after = answers();
  ASSERT_EQ(after.size(), 3u);
  EXPECT_EQ(lines_of(read_file(answers_))[0], lines[0]);  // not made again: its times are the same
  for (std::size_t i = 0; i < after.size(); ++i) {
    EXPECT_EQ(after[i]["index"], i);
    EXPECT_EQ(after[i]["tokens"], json::parse(lines[i])["tokens"]);
  }
  const std::string complete = read_file(answers_);
  EXPECT_EQ(run_batch().code, 0);
  EXPECT_EQ(read_file(answers_), complete);
}

TEST_F(Batch, AnswersToOtherPromptsOrSettingsAreMadeAgain) {
  ASSERT_EQ(run_batch().code, 0);
  const std::vector<std::string> before = lines_of(read_file(answers_));
  std::string changed = kPrompts;
  changed.replace(changed.find("the river"), 9, "the meadow");
  write_file(prompts_, changed);
  ASSERT_EQ(run_batch().code, 0);
  const std::vector<std::string> after = lines_of(read_file(answers_));
  ASSERT_EQ(after.size(), 3u);
  EXPECT_EQ(after[0], before[0]);
  EXPECT_EQ(after[1], before[1]);
  EXPECT_NE(json::parse(after[2])["prompt_hash"], json::parse(before[2])["prompt_hash"]);
  ASSERT_EQ(run_batch({"--temperature", "1"}).code, 0);
  EXPECT_NE(lines_of(read_file(answers_))[0], before[0]);
}

TEST_F(Batch, OneBadPromptDoesNotStopTheOthers) {
  write_file(prompts_, json{{"prompt", long_text(2000)}}.dump() + "\n" + kPrompts);
  const Result result = run_batch();
  EXPECT_EQ(result.code, 1);
  const std::vector<json> lines = answers();
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_NE(lines[0]["error"].get<std::string>().find("512"), std::string::npos);
  EXPECT_FALSE(lines[0].contains("text"));
  EXPECT_TRUE(lines[3].contains("text"));
  // Failed prompts are tried again, and leave one line.
  EXPECT_EQ(run_batch().code, 1);
  EXPECT_EQ(answers().size(), 4u);
}

TEST_F(Batch, FaultyInputIsRefusedBeforeAnyWork) {
  const std::vector<std::pair<std::string, std::string>> faults{
      {"{\"prompt\": \"a\"}\n{\"prompt\": \n", ":2:"},
      {"[1]\n", ":1:"},
      {"{\"prompt\": 5}\n", "prompt"},
      {"{\"id\": \"x\"}\n", "messages"},
      {"{\"prompt\": \"a\", \"messages\": []}\n", "one of the two"},
      {"{\"messages\": []}\n", "messages"},
      {"{\"messages\": [{\"role\": \"wizard\", \"content\": \"a\"}]}\n", "wizard"},
      {"{\"messages\": [{\"role\": \"user\"}]}\n", "content"},
      {"{\"prompt\": \"a\", \"max_token\": 5}\n", "max_token"},
      {"{\"prompt\": \"a\", \"max_tokens\": 0}\n", "max_tokens"},
      {"{\"prompt\": \"a\", \"id\": [1]}\n", "id"},
      {"{\"prompt\": \"\xff\"}\n", ":1:"},
      {"\n\n", "no prompts"}};
  for (const auto& [input, part] : faults) {
    write_file(prompts_, input);
    const Result result = run_batch();
    expect_error(result, 1, part);
    EXPECT_NE(result.err.find(prompts_), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(answers_)) << input;
  }
}

TEST_F(Batch, OutputsThatDoNotWork) {
  write_file(answers_, "dear diary\n");
  expect_error(run_batch(), 1, ":1:");
  EXPECT_EQ(read_file(answers_), "dear diary\n");
  answers_ = scratch_.file("no/answers.jsonl");
  expect_error(run_batch(), 1, "no/answers.jsonl");
  prompts_ = scratch_.file("missing.jsonl");
  expect_error(run_batch(), 1, "missing.jsonl");
}

TEST_F(Batch, FilesOfOthersStayAsTheyAre) {
  for (const std::string other :
       {"{\"my\":\"precious\"}", "{\"index\": 1, \"my\": \"pre", "{\"index\":1}", "diary"}) {
    write_file(answers_, other);
    expect_error(run_batch(), 1, "is not an answer");
    EXPECT_EQ(read_file(answers_), other);
  }
  answers_ = scratch_.file("link");
  std::filesystem::create_symlink(prompts_, answers_);
  expect_error(run_batch(), 1, "both the prompts and the output");
  EXPECT_EQ(read_file(prompts_), kPrompts);
}

TEST_F(Batch, ALineWithoutItsNewlineIsKept) {
  ASSERT_EQ(run_batch().code, 0);
  const std::string whole = read_file(answers_);
  write_file(answers_, whole.substr(0, whole.size() - 1));
  const Result resumed = run_batch();
  EXPECT_NE(resumed.err.find("3 already answered"), std::string::npos) << resumed.err;
  EXPECT_EQ(read_file(answers_), whole);
}

TEST_F(Batch, KeptAnswersTakeTheIdOfNow) {
  ASSERT_EQ(run_batch().code, 0);
  std::vector<json> expected = answers();
  std::string changed = kPrompts;
  changed.replace(changed.find("\"a\""), 3, "\"b\"");
  changed.replace(changed.find("\"id\": 7, "), 9, "");
  write_file(prompts_, changed);
  const Result resumed = run_batch();
  EXPECT_NE(resumed.err.find("3 already answered"), std::string::npos) << resumed.err;
  expected[0]["id"] = "b";
  expected[1].erase("id");
  EXPECT_EQ(answers(), expected);
}

TEST_F(Batch, PolicyShortensTheCaches) {
  write_file(prompts_, json{{"prompt", long_text(80)}}.dump() + "\n");
  ASSERT_EQ(run_batch({"--policy", scratch_.write("policy.json", kTwoStages)}).code, 0);
  const json line = answers().at(0);
  EXPECT_EQ(line["kept_tokens"], line["prompt_tokens"].get<int>() / 2 / 2);
  EXPECT_EQ(line["stages"].size(), 2u);
}

TEST_F(Batch, BlockSelectionIsPartOfTheSettings) {
  write_file(prompts_, json{{"prompt", long_text(80)}}.dump() + "\n");
  ASSERT_EQ(run_batch().code, 0);
  EXPECT_EQ(answers().at(0)["density"], 1.0);
  const std::string local = scratch_.write("local.json", kLocalBlocks);
  const std::string dense = read_file(answers_);
  const Result other = run_batch({"--policy", local});
  EXPECT_NE(other.err.find("1 lines dropped"), std::string::npos) << other.err;
  EXPECT_EQ(read_file(answers_ + ".before"), dense);
  EXPECT_LT(answers().at(0)["density"], 1.0);
  const Result again = run_batch({"--policy", local});
  EXPECT_FALSE(std::filesystem::exists(answers_ + ".before2"));
  EXPECT_NE(again.err.find("1 already answered"), std::string::npos) << again.err;
}

}  // namespace
}  // namespace winnow::cli_test
