#include <signal.h>

#include "cli/kill_when.h"
#include "cli/program.h"

namespace winnow::cli_test {
namespace {

class EvalTest : public testing::Test {
 protected:
  Result eval(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments =
        on_tiny({"eval"}, {"--text", text_, "--lengths", "400", "--windows", "2", "--n", "2"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments);
  }

  static std::string sentences(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += long_text(5 + i % 5) + "turns.\n";
    return text;
  }

  Scratch scratch_;
  std::string text_ = scratch_.write("text.txt", sentences(300));
  std::string policy_ = scratch_.write("two.json", kTwoStages);
  std::string output_ = scratch_.file("out.json");
};

TEST_F(EvalTest, TablesAndFile) {
  const Result result = eval({"--tasks", "kl,ppl,niah", "--policies", "dense," + policy_, "-o", output_});
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* word : {"at 400 tokens", "TTFT ms", "niah", "dense", "1.00x", "n: kl 2, niah 2, ppl 2"}) {
    EXPECT_NE(result.out.find(word), std::string::npos) << word << " in " << result.out;
  }
  const json report = json::parse(read_file(output_));
  for (const char* key : {"winnow", "date", "machine", "model", "backend", "precision", "threads", "seed",
                          "command", "settings", "texts", "policies", "notes", "results", "samples"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  ASSERT_EQ(report["results"].size(), 6u);
  for (const json& one : report["results"]) {
    for (const char* key : {"policy", "task", "length", "metric", "value", "ci95", "standard_error", "n",
                            "ttft_ms", "speedup", "avgtok", "density", "attn_work", "kv_share"}) {
      EXPECT_TRUE(one.contains(key)) << key;
    }
    EXPECT_EQ(one["n"], 2);
    EXPECT_TRUE(one["ci95"].is_null());
  }
  EXPECT_EQ(result.out.find(" +-0."), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("fewer than 5 are too few"), std::string::npos) << result.out;
  EXPECT_EQ(report["samples"].size(), 8u);
  EXPECT_EQ(report["texts"][0]["name"], "text.txt");
  EXPECT_FALSE(std::filesystem::exists(output_ + ".partial.jsonl"));
}

TEST_F(EvalTest, JsonOnStdout) {
  const Result result = eval({"--tasks", "kl", "--policies", "dense", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["results"][0]["value"], 0.0);
}

TEST_F(EvalTest, AblationsStandBesideTheirPolicy) {
  const Result result =
      eval({"--tasks", "kl", "--policies", "dense," + policy_, "--ablate", "stages,positions", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json report = json::parse(result.out);
  ASSERT_EQ(report["results"].size(), 6u);  // dense, the policy, two stages, two kinds of positions
  EXPECT_EQ(report["results"][2]["policy"], policy_ + "~no2");
  EXPECT_EQ(report["policies"][policy_ + "~compact"]["tokens"]["positions"], "compact");
}

// The samples in a journal's whole lines; none while there is no file.
std::vector<json> journal_samples(const std::string& path) {
  std::vector<json> samples;
  for (const std::string& line : lines_of(read_file(path))) {
    const json one = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (one.is_object() && one.contains("sample")) samples.push_back(one["sample"]);
  }
  return samples;
}

TEST_F(EvalTest, AJournalIsContinued) {
  const std::vector<std::string> few{"--tasks", "niah", "--policies", "dense", "-o", output_};
  ASSERT_EQ(eval(few).code, 0);
  const json whole = json::parse(read_file(output_));

  // Many more questions than the two that are waited for.
  const std::string journal = output_ + ".partial.jsonl";
  kill_when(on_tiny({"eval"}, {"--text", text_, "--lengths", "400", "--tasks", "niah", "--n", "5000",
                               "--policies", "dense", "-o", output_}),
            [&] { return journal_samples(journal).size() >= 2; });
  const std::string left = read_file(journal);
  const std::vector<json> kept = journal_samples(journal);
  ASSERT_GE(kept.size(), 2u);

  const Result resumed = eval(few);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("samples of an earlier run"), std::string::npos) << resumed.err;
  json report = json::parse(read_file(output_));
  EXPECT_EQ(report["results"][0]["value"], whole["results"][0]["value"]);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(report["samples"][i]["prefill_ms"], kept[i]["prefill_ms"]) << "not measured again";
  }
  EXPECT_FALSE(std::filesystem::exists(journal));

  // On another number of threads the answers still hold, the times do not.
  write_file(journal, left);
  ASSERT_EQ(run_program({"eval", "--threads", "2", "-m", tiny_llama(), "--text", text_, "--lengths", "400",
                         "--tasks", "niah", "--n", "2", "--policies", "dense", "-o", output_})
                .code,
            0);
  report = json::parse(read_file(output_));
  EXPECT_EQ(report["results"][0]["value"], whole["results"][0]["value"]);
  EXPECT_TRUE(report["results"][0]["ttft_ms"].is_null());

  write_file(journal, "not ours\n");
  expect_error(eval(few), 1, "is not a journal");
}

TEST_F(EvalTest, LongBenchFile) {
  const std::string file = scratch_.write(
      "qa.jsonl",
      R"({"input": "Who?", "context": "Ann saw Bob.", "answers": ["Bob"], "length": 3, "dataset": "hotpotqa", )"
      R"("language": "en", "all_classes": null, "_id": "x"})"
      "\n");
  const Result result = eval({"--tasks", "longbench=" + file, "--policies", "dense", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_EQ(report["results"][0]["task"], "longbench_hotpotqa");
  EXPECT_EQ(report["results"][0]["metric"], "qa_f1");
  EXPECT_EQ(report["results"][0]["n"], 1);
  const std::string bad = scratch_.write("bad.jsonl", read_file(file) + "{\n");
  expect_error(eval({"--tasks", "longbench=" + bad, "--policies", "dense"}), 1, "bad.jsonl:2");
}

TEST_F(EvalTest, FaultsBeforeAnyWork) {
  expect_error(eval({"--tasks", "kl,speed"}), 1, "task \"speed\": unknown");
  expect_error(eval({"--tasks", "kl", "--policies", "dense,keep99"}), 1, "keep99");
  expect_error(eval({"--tasks", "kl", "--text", scratch_.write("void.txt", "\n")}), 1, "void.txt: is empty");
  const std::string shorter = scratch_.write("short.txt", "Too short.");
  expect_error(eval({"--tasks", "kl", "--policies", "dense", "--text", shorter}), 1, "short.txt: ");
  expect_error(eval({"--tasks", "kl", "--policies", "dense", "--text", shorter}), 1, "400 needed");
  expect_error(eval({"--tasks", "kl", "--policies", "dense", "-o", scratch_.file("no/out.json")}), 1,
               "no/out.json");
  expect_error(eval({"--ablate", "colours"}), 2, "colours");
  EXPECT_FALSE(std::filesystem::exists(output_));
}

}  // namespace
}  // namespace winnow::cli_test
