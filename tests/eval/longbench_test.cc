#include "eval/longbench.h"

#include <fmt/format.h>

#include "core/error.h"
#include "eval/longbench_datasets.h"
#include "support/eval_testing.h"

namespace winnow {
namespace {

std::string line(const std::string& dataset, const std::string& answers,
                 const std::string& classes = "null") {
  return fmt::format(
      R"({{"input": "Who?", "context": "Ann saw Bob.", "answers": {}, "length": 3, "dataset": "{}", )"
      R"("language": "en", "all_classes": {}, "_id": "x1"}})"
      "\n",
      answers, dataset, classes);
}

void expect_error(const std::string& content, const std::string& part,
                  ErrorCode code = ErrorCode::kBadFormat) {
  const Scratch scratch;
  const std::string path = scratch.write("data.jsonl", content);
  try {
    make_longbench(path);
    ADD_FAILURE() << "no error for " << content;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(LongBench, PromptAndScoreOfALine) {
  const Scratch scratch;
  const auto task = make_longbench(scratch.write(
      "data.jsonl", line("hotpotqa", R"(["Bob", "Robert Smith"])") + "\n" + line("hotpotqa", R"(["Ann"])")));
  EXPECT_EQ(task->name(), "longbench_hotpotqa");
  EXPECT_EQ(task->metric(), "qa_f1");
  EXPECT_EQ(task->items(20), 2);
  EXPECT_EQ(task->items(1), 1);
  const Question question = task->make(1000, 0, 0);
  EXPECT_NE(question.prompt.user.find("passages.\nAnn saw Bob.\n\nAnswer the question"), std::string::npos);
  EXPECT_TRUE(question.prompt.user.ends_with("Question: Who?\nAnswer:"));
  EXPECT_TRUE(question.cut_middle);
  EXPECT_EQ(question.max_new_tokens, 32);
  EXPECT_EQ(task->score(question, "Bob."), 1.0);  // the best of the references
  EXPECT_DOUBLE_EQ(task->score(question, "Robert Jones"), 0.5);
  EXPECT_EQ(task->score(task->make(1000, 1, 0), "Ann"), 1.0);
}

TEST(LongBench, MetricOfEveryDataset) {
  const Scratch scratch;
  const auto score = [&](const std::string& dataset, const std::string& answers, const std::string& answer) {
    const auto task =
        make_longbench(scratch.write("data.jsonl", line(dataset, answers, R"(["Date", "City"])")));
    return task->score(task->make(1000, 0, 0), answer);
  };
  EXPECT_EQ(score("trec", R"(["Date"])", "\nDate\nCity"), 1.0);  // the first line counts
  EXPECT_EQ(score("passage_retrieval_en", R"(["Paragraph 3"])", "Paragraph 3"), 1.0);
  EXPECT_EQ(score("passage_count", R"(["4"])", "4 or 5"), 0.5);
  EXPECT_EQ(score("lcc", R"(["return y;"])", "return x;"), 0.89);
  EXPECT_EQ(score("gov_report", R"(["a b c d"])", "a b x x"), 0.5);
  EXPECT_EQ(longbench_datasets().size(), 16u);
  for (const LongBenchDataset& dataset : longbench_datasets()) {
    EXPECT_NE(dataset.prompt.find("{context}"), std::string_view::npos) << dataset.name;
  }
}

TEST(LongBench, ErrorsNameFileAndLine) {
  const std::string good = line("hotpotqa", R"(["Bob"])");
  expect_error(good + "{\"input\": ", "data.jsonl:2");
  expect_error(good + "\n[]\n", "data.jsonl:3");
  expect_error(line("hotpotqa", "[]"), "\"answers\" is empty");
  expect_error(line("hotpotqa", "\"Bob\""), "\"answers\" must be a list of texts");
  expect_error(line("trec", R"(["Date"])"), "all_classes");
  expect_error(line("passage_retrieval_en", R"(["3"])"), "Paragraph 7");
  expect_error(line("dureader", R"(["x"])"), "dureader", ErrorCode::kUnsupported);
  expect_error(good + line("musique", R"(["x"])"), "one dataset a file");
  expect_error(R"({"context": "x", "answers": ["y"], "dataset": "qasper"})", "\"input\" must be text");
  expect_error("\n\n", "has no lines");
  EXPECT_THROW(make_longbench("/no/such/file"), Error);
}

}  // namespace
}  // namespace winnow
