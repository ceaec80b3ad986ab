// The runner on the tiny model: dense against itself, resumption, journals, and what policies do.
#include "eval/runner.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "eval/evaluation.h"
#include "eval/window_workload.h"
#include "support/eval_testing.h"

namespace winnow {
namespace {

using eval_test::some_text;
using eval_test::tiny_engine;
using nlohmann::json;

constexpr const char* kTwoStages = R"({"version": 1, "tokens": {
  "stages": [{"layer": 2, "keep": 0.5}, {"layer": 4, "keep": 0.5}], "scorer": "recency",
  "protect_tail": {"min": 4, "share": 0.0}, "protect_head": 1}})";
constexpr const char* kKeepAll = R"({"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 1.0}]}})";

class RunnerTest : public testing::Test {
 protected:
  EvaluationSettings settings(std::vector<std::string> tasks, std::vector<std::string> policies) const {
    EvaluationSettings result;
    result.tasks = std::move(tasks);
    result.policies = std::move(policies);
    result.texts = {some_text()};
    result.lengths = {400};
    result.questions = 2;
    result.windows = 2;
    return result;
  }

  static json run(const EvaluationSettings& settings, const RunnerOptions& options = {},
                  const std::string& device = "cpu") {
    const Evaluation evaluation(tiny_engine(device), settings);
    const RunResult result = evaluation.run(options);
    EXPECT_TRUE(result.finished());
    return evaluation.report(result);
  }

  static const json& row(const json& report, const std::string& policy, const std::string& task) {
    for (const json& one : report["results"]) {
      if (one["policy"] == policy && one["task"] == task) return one;
    }
    ADD_FAILURE() << "no result of " << policy << " at " << task;
    return report["results"][0];
  }

  Scratch scratch_;
  std::string two_stages_ = scratch_.write("two.json", kTwoStages);
  std::string keep_all_ = scratch_.write("all.json", kKeepAll);
};

const std::vector<std::string> kWindowTasks{"kl", "dce", "ppl", "top1", "context_benefit"};

TEST_F(RunnerTest, DenseAndKeepAllAreExactlyDense) {
  const json report = run(settings(kWindowTasks, {"dense", keep_all_}));
  for (const std::string& policy : {std::string("dense"), keep_all_}) {
    EXPECT_EQ(row(report, policy, "kl")["value"], 0.0);
    EXPECT_EQ(row(report, policy, "dce")["value"], 0.0);
    EXPECT_EQ(row(report, policy, "top1")["value"], 1.0);
    EXPECT_EQ(row(report, policy, "kl")["avgtok"], 1.0);
    EXPECT_EQ(row(report, policy, "kl")["kv_share"], 1.0);
    EXPECT_EQ(row(report, policy, "ppl")["value"], row(report, "dense", "ppl")["value"]);
  }
  EXPECT_EQ(row(report, "dense", "kl")["speedup"], 1.0);
  EXPECT_EQ(row(report, "dense", "kl")["n"], 2);
  EXPECT_TRUE(row(report, "dense", "kl")["ci95"].is_null());  // two windows are too few
  EXPECT_TRUE(row(report, "dense", "kl")["standard_error"].is_null());
}

TEST_F(RunnerTest, PruningCostsAndSaves) {
  const json report = run(settings({"kl", "top1"}, {"dense", two_stages_}));
  const json& kl = row(report, two_stages_, "kl");
  EXPECT_GT(kl["value"], 0.0);
  // 144 tokens of context: two layers with 144, two with 72, two with 36.
  EXPECT_EQ(kl["prompt_tokens"], 144.0);
  EXPECT_NEAR(kl["kv_share"], (1 + 0.5 + 0.25) / 3, 1e-9);
  EXPECT_NEAR(kl["avgtok"], (1 + 0.5 + 0.25) / 3, 1e-9);
  EXPECT_LT(kl["attn_work"], 0.9);
  EXPECT_EQ(kl["density"], 1.0);
}

// A window so wide that nothing is left out is dense (but for another kernel's rounding); a narrow one is
// not.
TEST_F(RunnerTest, SecondHalfOfPoliciesThatSelectBlocks) {
  const auto local = [&](int tokens) {
    return scratch_.write(
        fmt::format("local{}.json", tokens),
        fmt::format(R"({{"version": 1, "attention": {{"selector": "local", "local_tokens": {},
                          "q_block": 16, "k_block": 16, "dense_last_tokens": 0, "gate": "off"}}}})",
                    tokens));
  };
  const std::string wide = local(512), narrow = local(16);
  const json report = run(settings({"kl", "kl_second_half"}, {"dense", wide, narrow, two_stages_}));
  EXPECT_LT(row(report, wide, "kl_second_half")["value"], 1e-6);
  EXPECT_GT(row(report, narrow, "kl_second_half")["value"], 1e-4);
  EXPECT_LT(row(report, narrow, "kl_second_half")["density"], 0.9);
  EXPECT_EQ(report["results"].size(), 4u + 2u);  // neither dense nor what drops tokens has the second measure
}

// The measures against the engine used by hand.
TEST_F(RunnerTest, PerplexityIsThatOfTheWindow) {
  EvaluationSettings one = settings({"ppl"}, {"dense"});
  one.windows = 1;
  const json report = run(one);
  const Engine& engine = tiny_engine();
  const PromptEncoder encoder(engine.tokenizer(), false);
  const TextWindows windows = cut_windows(encoder, one.texts, 400, 1);
  const std::vector<TokenId>& tokens = windows.windows[0];
  ASSERT_EQ(tokens.size(), 400u);
  Session session(engine);
  std::vector<double> losses;
  PrefillOptions options;
  options.all_logits = [&](std::int64_t first, const MatrixView& logits) {
    for (std::int64_t i = 0; i < logits.rows; ++i) {
      if (first + i + 1 >= std::ssize(tokens)) continue;
      double sum = 0;
      for (std::int64_t v = 0; v < logits.cols; ++v)
        sum += std::exp(static_cast<double>(logits.row<float>(i)[v]));
      losses.push_back(std::log(sum) - logits.row<float>(i)[tokens[first + i + 1]]);
    }
  };
  session.prefill(tokens, Policy{}, options);
  double mean = 0;
  for (std::size_t i = losses.size() - 256; i < losses.size(); ++i) mean += losses[i] / 256;
  EXPECT_NEAR(row(report, "dense", "ppl")["value"].get<double>(), std::exp(mean), 1e-3 * std::exp(mean));
}

TEST_F(RunnerTest, QuestionsAreAskedAndScored) {
  EvaluationSettings questions =
      settings({"niah", "second_question", "ruler_niah_single_1"}, {"dense", two_stages_});
  questions.lengths = {480};
  const json report = run(questions);
  EXPECT_EQ(report["results"].size(), 6u);
  EXPECT_EQ(report["samples"].size(), 12u);
  for (const json& sample : report["samples"]) {
    EXPECT_TRUE(sample["values"].contains("score"));
    EXPECT_GE(sample["ttft_ms"], sample["prefill_ms"]);
    EXPECT_LE(sample["prompt_tokens"], 480);
  }
  EXPECT_EQ(report["samples"][0]["cold"], true);
  EXPECT_EQ(report["samples"][1]["cold"], false);
  EXPECT_FALSE(row(report, "dense", "niah")["ttft_cold_ms"].is_null());
}

// Interrupted after `count` samples, then run again: every number is that of a run in one go, but for times.
void strip_times(json& report) {
  for (json& sample : report["samples"]) {
    for (const char* key : {"ttft_ms", "prefill_ms", "cold"}) sample.erase(key);
  }
  for (json& result : report["results"]) {
    for (const char* key : {"ttft_ms", "ttft_cold_ms", "speedup"}) result.erase(key);
  }
}

TEST_F(RunnerTest, ResumesWhereItWasInterrupted) {
  EvaluationSettings both = settings({"kl", "dce", "niah"}, {"dense", two_stages_});
  both.windows = 1;
  json whole = run(both);
  strip_times(whole);
  const std::string path = scratch_.file("out.json.partial.jsonl");
  for (const int stop : {1, 4}) {  // of 2 + 4 samples
    {
      Journal journal(path);
      const Evaluation evaluation(tiny_engine(), both);
      RunnerOptions options;
      options.journal = &journal;
      options.cancelled = [&] { return static_cast<int>(journal.size()) >= stop; };
      const RunResult result = evaluation.run(options);
      EXPECT_FALSE(result.finished());
      EXPECT_EQ(result.measured, stop);
    }
    // What a crash leaves: half a line, then anything.
    const std::string left = Scratch::read(path);
    scratch_.write("out.json.partial.jsonl", left + "{\"key\": \"ab\", \"sam\n\0\xff garbage\n{}");
    Journal journal(path);
    EXPECT_EQ(journal.size(), static_cast<std::size_t>(stop));
    RunnerOptions options;
    options.journal = &journal;
    const Evaluation evaluation(tiny_engine(), both);
    const RunResult result = evaluation.run(options);
    EXPECT_TRUE(result.finished());
    EXPECT_EQ(result.resumed, stop);
    EXPECT_EQ(result.measured, 6 - stop);
    json report = evaluation.report(result);
    // The times of what was resumed are those measured before the interruption.
    EXPECT_EQ(report["samples"][0]["cold"], true);
    strip_times(report);
    EXPECT_EQ(report, whole);
    journal.remove();
    EXPECT_FALSE(std::filesystem::exists(path));
  }
}

TEST_F(RunnerTest, JournalIsKeyedByWhatDecidesTheResult) {
  const std::string path = scratch_.file("j.jsonl");
  const auto resumed = [&](const EvaluationSettings& used) {
    Journal journal(path);
    RunnerOptions options;
    options.journal = &journal;
    return Evaluation(tiny_engine(), used).run(options).resumed;
  };
  EvaluationSettings used = settings({"niah"}, {"dense"});
  used.lengths = {300};
  EXPECT_EQ(resumed(used), 0);
  EXPECT_EQ(resumed(used), 2);
  used.policies = {"dense", two_stages_};  // one more policy: dense is known
  EXPECT_EQ(resumed(used), 2);
  EXPECT_EQ(resumed(used), 4);
  used.questions = 3;
  EXPECT_EQ(resumed(used), 4);
  used.seed = 1;
  EXPECT_EQ(resumed(used), 0);
  used.texts[0].content += " more";
  EXPECT_EQ(resumed(used), 0);
  scratch_.write("two.json", std::string(kTwoStages).replace(std::string(kTwoStages).find("0.5"), 3, "0.6"));
  EXPECT_EQ(resumed(used), 3);  // dense again, the policy's file has changed
  used.plain = true;
  EXPECT_EQ(resumed(used), 0);
}

TEST_F(RunnerTest, AForeignFileIsNoJournal) {
  const std::string path = scratch_.write("notes.txt", "my notes\n");
  EXPECT_THROW(Journal{path}, Error);
  EXPECT_THROW(Journal::discard(path), Error);
  EXPECT_EQ(Scratch::read(path), "my notes\n");
  EXPECT_NO_THROW(Journal::discard(scratch_.file("none")));
  EXPECT_EQ(Journal(scratch_.write("empty", "")).size(), 0u);  // a crash before the first line
}

TEST_F(RunnerTest, AScorerAloneTakesTheStagesOfTheOthers) {
  const auto policies =
      parse_eval_policies({"dense", "norm", two_stages_, two_stages_ + ">h2o=0.5"}, tiny_engine().facts());
  ASSERT_EQ(policies.size(), 4u);
  EXPECT_EQ(policies[1].name, two_stages_ + ":norm");
  EXPECT_EQ(policies[1].policy.tokens.scorer, ScorerKind::kNorm);
  EXPECT_EQ(policies[1].policy.tokens.stages.size(), policies[2].policy.tokens.stages.size());
  EXPECT_EQ(policies[2].policy.tokens.scorer, ScorerKind::kRecency);
}

TEST_F(RunnerTest, ChosenItemsKeepTheirKeys) {
  const Engine& engine = tiny_engine();
  const PromptEncoder encoder(engine.tokenizer(), false);
  const std::vector<EvalText> texts{some_text()};
  const auto whole = make_window_workload(engine, cut_windows(encoder, texts, 300, 3),
                                          {.length = 300, .texts = texts_json(texts)});
  const std::vector<EvalPolicy> dense{parse_eval_policy("dense", engine.facts())};
  Journal journal(scratch_.file("chosen.jsonl"));
  RunnerOptions options;
  options.journal = &journal;
  const auto run = [&](std::unique_ptr<Workload> items) {
    std::vector<std::unique_ptr<Workload>> workloads;
    workloads.push_back(std::move(items));
    return run_evaluation(engine, dense, workloads, options);
  };
  EXPECT_EQ(run(some_items(*whole, {2, 0})).measured, 2);
  const RunResult all = run(first_items(*whole, 9));
  EXPECT_EQ(all.total, 3);
  EXPECT_EQ(all.resumed, 2);
  EXPECT_EQ(all.measured, 1);
}

TEST_F(RunnerTest, ErrorsComeBeforeTheWork) {
  const auto expect_error = [&](const EvaluationSettings& wrong, const std::string& part) {
    try {
      const Evaluation evaluation(tiny_engine(), wrong);
      ADD_FAILURE() << "no error with " << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  EvaluationSettings wrong = settings({"kl"}, {"dense"});
  wrong.texts = {some_text(), some_text(5)};
  wrong.texts[1].name = "short.txt";
  expect_error(wrong, "short.txt: ");
  expect_error(wrong, "400 needed");
  wrong.texts = {{"void.txt", " \n"}};
  expect_error(wrong, "void.txt: is empty");
  wrong = settings({"kl"}, {"dense"});
  wrong.lengths = {100};
  expect_error(wrong, "100 tokens is too short");
  wrong.lengths = {513};
  expect_error(wrong, "context is 512");
  expect_error(settings({"kll"}, {"dense"}), "task \"kll\": unknown; known: kl, dce");
  expect_error(settings({"kl", "kl"}, {"dense"}), "named twice");
  expect_error(settings({"kl"}, {"dense", "dense"}), "named twice");
  expect_error(settings({"kl"}, {"keep99"}), "keep99");
  expect_error(settings({"kl"}, {"dense>snap=3"}), "snapkv=KEEP or h2o=KEEP");
  expect_error(settings({"kl"}, {"h2o=1.5"}), "(0, 1]");
  expect_error(settings({"kl"}, {"dense", "norm"}), "takes the stages of the other policies");
  expect_error(settings({"kl", "kl_second_half"}, {"dense", two_stages_}), "selects blocks without dropping");
  wrong = settings({"kl"}, {"dense"});
  wrong.texts = {};
  expect_error(wrong, "--text");
}

TEST_F(RunnerTest, WindowsTakeTurnsAmongTheTexts) {
  const Engine& engine = tiny_engine();
  const PromptEncoder encoder(engine.tokenizer(), false);
  std::vector<EvalText> texts{some_text(), some_text(300)};
  texts[1].content = "wind " + texts[1].content;
  const TextWindows cut = cut_windows(encoder, texts, 300, 5);
  ASSERT_EQ(cut.windows.size(), 5u);
  EXPECT_FALSE(cut.overlap);
  const auto first = encoder.text_tokens(texts[0].content), second = encoder.text_tokens(texts[1].content);
  EXPECT_TRUE(std::equal(cut.windows[0].begin(), cut.windows[0].end(), first.begin()));
  EXPECT_TRUE(std::equal(cut.windows[1].begin(), cut.windows[1].end(), second.begin()));
  EXPECT_TRUE(std::equal(cut.windows[4].rbegin(), cut.windows[4].rend(), first.rbegin()));
  EXPECT_TRUE(std::equal(cut.windows[3].rbegin(), cut.windows[3].rend(), second.rbegin()));
  EXPECT_TRUE(cut_windows(encoder, texts, 300, 100).overlap);
}

}  // namespace
}  // namespace winnow
