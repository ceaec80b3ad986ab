#include "cli/program.h"

namespace winnow::cli_test {
namespace {

json run_json(const std::vector<std::string>& more, const std::string& input = "") {
  std::vector<std::string> arguments = on_tiny({"run", "--json"}, more);
  const Result result = run_program(arguments, input);
  EXPECT_EQ(result.code, 0) << result.err;
  return result.code == 0 ? json::parse(result.out) : json();
}

class GoldenTokens : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTokens, AsTransformersComputesThem) {
  const json golden = json::parse(read_file(model_path(GetParam()) + "/golden.json"));
  for (const std::string form : {"", ".gguf"}) {
    const Result result = run_program({"run", "-m", model_path(GetParam()) + form, "--threads", "1",
                                       "--precision", "f32", "--json", "-n", "32", "-p", golden["text"]});
    ASSERT_EQ(result.code, 0) << result.err;
    const json answer = json::parse(result.out);
    EXPECT_EQ(answer["tokens"], golden["decode_tokens"]);
    EXPECT_EQ(answer["prompt_tokens"], golden["prompt"].size());
    EXPECT_EQ(answer["finish_reason"], "length");
  }
}
INSTANTIATE_TEST_SUITE_P(Models, GoldenTokens, testing::Values("tiny-llama", "tiny-qwen2", "tiny-gpt2"));

TEST(Run, TextOnStdoutSummaryOnStderr) {
  const Result text = run_program(on_tiny({"run"}, {"-p", golden_text(), "-n", "9"}));
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.out, run_json({"-p", golden_text(), "-n", "9"})["text"].get<std::string>() + "\n");
  EXPECT_NE(text.err.find("9 tokens"), std::string::npos) << text.err;
}

TEST(Run, JsonSaysWhereItComesFrom) {
  const json answer = run_json({"-p", "corn", "-n", "2", "--seed", "7"});
  for (const char* key :
       {"winnow", "date", "machine", "model", "device", "backend", "precision", "threads", "seed", "policy",
        "prefill_ms", "ttft_ms", "decode_ms", "kv_lens", "kv_bytes", "avgtok", "stages"}) {
    EXPECT_TRUE(answer.contains(key)) << key;
  }
  EXPECT_EQ(answer["seed"], 7);
  EXPECT_EQ(answer["model"]["file"], "tiny-llama.gguf");
  EXPECT_EQ(answer["kv_lens"].size(), 6u);
  EXPECT_GE(answer["ttft_ms"], answer["prefill_ms"]);
}

TEST(Run, CachesInEightBits) {
  const json same = run_json({"-p", golden_text(), "-n", "9"}),
             q8 = run_json({"-p", golden_text(), "-n", "9", "--kv", "q8"});
  EXPECT_EQ(same["kv"], "same");
  EXPECT_EQ(q8["kv"], "q8");
  EXPECT_EQ(q8["kv_lens"], same["kv_lens"]);
  EXPECT_LT(q8["kv_bytes"].get<double>(), 0.6 * same["kv_bytes"].get<double>());
  EXPECT_EQ(q8["tokens"].size(), 9u);
  EXPECT_EQ(q8["tokens"][0], same["tokens"][0]);  // of the prefill, which is the same
}

TEST(Run, PromptFromFileStdinAndBoth) {
  const Scratch scratch;
  const std::string document = scratch.write("document.txt", "corn in the wind");
  const json direct = run_json({"-p", "corn in the wind", "-n", "3"});
  EXPECT_EQ(run_json({"-f", document, "-n", "3"})["tokens"], direct["tokens"]);
  EXPECT_EQ(run_json({"-f", "-", "-n", "3"}, "corn in the wind")["tokens"], direct["tokens"]);
  const json both = run_json({"-f", document, "-p", "why?", "-n", "3"});
  const json joined = run_json({"-p", "corn in the wind\n\nwhy?", "-n", "3"});
  EXPECT_EQ(both["prompt_tokens"], joined["prompt_tokens"]);
  EXPECT_EQ(both["tokens"], joined["tokens"]);
}

TEST(Run, AnyBytesAreAPrompt) {
  const json answer =
      run_json({"-f", "-", "-n", "3"}, std::string("\xff\xc3\x00 caf\xc3\xa9 \xf0\x9f\x8c\xbe", 15));
  EXPECT_EQ(answer["new_tokens"], 3);
}

TEST(Run, ChatUsesTheTemplate) {
  const json plain = run_json({"-p", "corn", "-n", "1"});
  const json chat = run_json({"-p", "corn", "-n", "1", "--chat"});
  EXPECT_GT(chat["prompt_tokens"], plain["prompt_tokens"]);
  const json spelled = run_json(
      {"--parse-special", "-n", "1", "-p", "<|im_start|>user\ncorn<|im_end|>\n<|im_start|>assistant\n"});
  EXPECT_EQ(chat["prompt_tokens"], spelled["prompt_tokens"]);
  EXPECT_EQ(chat["tokens"], spelled["tokens"]);
}

TEST(Run, PromptsThatCannotBeRead) {
  expect_error(run_program(on_tiny({"run"}, {"-p", ""})), 1, "empty");
  expect_error(run_program(on_tiny({"run"}, {"-f", "-"})), 1, "empty");
  expect_error(run_program(on_tiny({"run"}, {"-p", "What is it?", "-f", "/dev/null"})), 1,
               "/dev/null: is empty");
  expect_error(run_program(on_tiny({"run"}, {"-f", "no/such/text"})), 1, "no/such/text");
  expect_error(run_program(on_tiny({"run"}, {"-f", WINNOW_TEST_DATA})), 1, "folder");
  const Result too_long = run_program(on_tiny({"run"}, {"-f", "-"}), long_text(2000));
  expect_error(too_long, 1, "512");
  EXPECT_EQ(too_long.out, "");
  expect_error(run_program({"run", "--random-weights", "smollm2-135m", "-p", "a", "--threads", "1"}), 1,
               "tokenizer");
}

TEST(Run, AnswerEndsWhereTheContextDoes) {
  const json answer = run_json({"-f", "-", "-n", "100000"}, long_text(150));
  EXPECT_EQ(answer["finish_reason"], "length");
  // The last token needs no place: it is sampled, not read.
  EXPECT_EQ(answer["prompt_tokens"].get<int>() + answer["new_tokens"].get<int>(), 513);
}

TEST(Run, SamplingFollowsTheSeed) {
  const std::vector<std::string> sampled{"-p",  "corn",    "-n",   "12",    "--temperature",
                                         "1.5", "--top-p", "0.95", "--seed"};
  const auto with_seed = [&](const char* seed) {
    std::vector<std::string> arguments = sampled;
    arguments.push_back(seed);
    return run_json(arguments)["tokens"];
  };
  EXPECT_EQ(with_seed("1"), with_seed("1"));
  EXPECT_NE(with_seed("1"), with_seed("2"));
}

TEST(Run, StopTextEndsTheAnswerAndIsNoPartOfIt) {
  const std::string whole = run_json({"-p", golden_text(), "-n", "32", "--precision", "f32"})["text"];
  // Plain letters inside the answer, whatever the random model says.
  std::size_t begin = 1;
  while (begin + 2 < whole.size() && !(std::isalnum(static_cast<unsigned char>(whole[begin])) != 0 &&
                                       std::isalnum(static_cast<unsigned char>(whole[begin + 1])) != 0)) {
    ++begin;
  }
  ASSERT_LT(begin + 2, whole.size());
  const std::string stop = whole.substr(begin, 2);
  const json stopped = run_json({"-p", golden_text(), "-n", "32", "--precision", "f32", "--stop", stop});
  EXPECT_EQ(stopped["text"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(stopped["finish_reason"], "stop");
}

TEST(Run, PolicyPrunesAndLogsEveryStage) {
  const Scratch scratch;
  const std::string policy = scratch.write("policy.json", kTwoStages);
  const std::string log = scratch.file("prune.jsonl");
  const json answer =
      run_json({"-f", "-", "-n", "4", "--policy", policy, "--prune-log", log}, long_text(100));
  const std::vector<std::string> lines = lines_of(read_file(log));
  ASSERT_EQ(lines.size(), 2u);
  std::int64_t current = answer["prompt_tokens"];
  for (std::size_t i = 0; i < lines.size(); ++i) {
    json stage = json::parse(lines[i]);
    EXPECT_EQ(stage["schema"], "winnow.stage/1");
    stage.erase("schema");  // of a line of its own
    for (const char* key :
         {"timestamp", "scores_min", "scores_max", "scores_abs_sum", "fallback_applied", "pruning_ratio"}) {
      EXPECT_TRUE(stage.contains(key)) << key;
    }
    EXPECT_EQ(stage["layer"], 2 + 2 * i);
    EXPECT_EQ(stage["input_seq_len"], current);
    EXPECT_EQ(stage["tokens_kept"], current / 2);
    EXPECT_EQ(stage, answer["stages"][i]);
    current /= 2;
  }
  EXPECT_EQ(answer["kept_tokens"], current);
  EXPECT_EQ(answer["kv_lens"].back(), current);
  EXPECT_EQ(answer["kv_lens"].front(), answer["prompt_tokens"]);
  EXPECT_LT(answer["avgtok"], 1.0);
}

TEST(Run, KeepingAllIsDense) {
  const Scratch scratch;
  const std::string policy =
      scratch.write("all.json", R"({"version": 1, "tokens": {"stages": [{"layer": 3, "keep": 1.0}]}})");
  const json kept = run_json({"-f", "-", "-n", "8", "--policy", policy}, long_text(60));
  const json dense = run_json({"-f", "-", "-n", "8"}, long_text(60));
  EXPECT_EQ(kept["tokens"], dense["tokens"]);
  EXPECT_EQ(kept["kv_bytes"], dense["kv_bytes"]);
}

TEST(Run, CompareShowsBoth) {
  const Scratch scratch;
  const std::string policy = scratch.write("policy.json", kTwoStages);
  const json report = run_json({"-f", "-", "-n", "4", "--policy", policy, "--compare"}, long_text(80));
  ASSERT_EQ(report["results"].size(), 2u);
  EXPECT_EQ(report["results"][0]["policy"], "dense");
  EXPECT_LT(report["results"][1]["kv_bytes"], report["results"][0]["kv_bytes"]);
  EXPECT_GE(report["agreement"]["first_token_kl"], 0.0);
  EXPECT_TRUE(report["agreement"].contains("first_token_equal"));
  EXPECT_TRUE(report["agreement"].contains("equal_leading_tokens"));
  const Result text =
      run_program(on_tiny({"run"}, {"-f", "-", "-n", "4", "--policy", policy, "--compare"}), long_text(80));
  for (const char* part :
       {"== dense ==", "TTFT", "KV cache MB", "avgtok", "KL of first token", "kept after each stage"}) {
    EXPECT_NE(text.out.find(part), std::string::npos) << part;
  }
}

TEST(Run, DenseComparedWithItselfAgrees) {
  const json report = run_json({"-p", golden_text(), "-n", "6", "--policy", "dense", "--compare"});
  EXPECT_EQ(report["agreement"]["first_token_equal"], true);
  EXPECT_EQ(report["agreement"]["equal_leading_tokens"], 6);
  EXPECT_EQ(report["agreement"]["first_token_kl"], 0.0);
}

TEST(Run, PoliciesAndLogsThatDoNotWork) {
  const Scratch scratch;
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--policy", "keep99"})), 1, "keep99");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--policy", ""})), 1, "policy \"\"");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--policy", "keep08"})), 1, "layers");
  const std::string typo = scratch.write("typo.json", R"({"version": 1, "tokens": {"stagez": []}})");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--policy", typo})), 1, "stagez");
  expect_error(run_program(on_tiny({"run"}, {"-p", "a", "--prune-log", scratch.file("no/log")})), 1,
               "no/log");
}

TEST(Run, BlockSelectionIsShownLayerByLayer) {
  const Scratch scratch;
  const std::string policy = scratch.write("local.json", kLocalBlocks);
  const json answer = run_json({"-f", "-", "-n", "4", "--policy", policy}, long_text(100));
  ASSERT_EQ(answer["attention_layers"].size(), 6u);
  const json& layer = answer["attention_layers"][0];
  EXPECT_EQ(layer["rows"], answer["prompt_tokens"]);
  EXPECT_LT(layer["density"], 1.0);
  EXPECT_EQ(layer["gated"], "");
  EXPECT_LT(answer["density"], 1.0);
  EXPECT_LT(answer["attn_work"], 1.0);
  const json dense = run_json({"-f", "-", "-n", "4"}, long_text(100));
  EXPECT_EQ(dense["density"], 1.0);
  EXPECT_EQ(dense["attention_layers"], json::array());
  EXPECT_LT(answer["flops"], dense["flops"]);
  const Result text =
      run_program(on_tiny({"run"}, {"-f", "-", "-n", "4", "--policy", policy}), long_text(100));
  EXPECT_NE(text.err.find("attention density 0."), std::string::npos) << text.err;
}

TEST(Run, CompareShowsDensities) {
  const Scratch scratch;
  const std::string policy = scratch.write("local.json", kLocalBlocks);
  const Result result =
      run_program(on_tiny({"run"}, {"-f", "-", "-n", "4", "--policy", policy, "--compare"}), long_text(100));
  EXPECT_EQ(result.code, 0) << result.err;
  for (const char* part : {"density", "attention work", "planning ms", "density by layer:"}) {
    EXPECT_NE(result.out.find(part), std::string::npos) << part << result.out;
  }
  const json report = run_json({"-f", "-", "-n", "4", "--policy", policy, "--compare"}, long_text(100));
  EXPECT_EQ(report["results"][0]["density"], 1.0);
  EXPECT_EQ(report["results"][1]["attention_layers"].size(), 6u);
}

// Costs are measured once for a user, and not at all where nothing is gated.
// Costs that other work got in the way of measuring are not kept (AttentionCosts::settled): then the program
// is run again.
TEST(Run, AttentionCostsAreKept) {
  const Scratch scratch;
  const std::vector<std::string> environment{"XDG_CACHE_HOME=" + scratch.file("cache")};
  const std::string costs = scratch.file("cache/winnow/attention_costs.json");
  const auto run_with = [&](const char* policy) {
    const Result result = run_program(
        on_tiny({"run", "--json"}, {"-p", golden_text(), "-n", "1", "--policy", policy}), "", environment);
    EXPECT_EQ(result.code, 0) << result.err;
    return read_file(costs);
  };
  const auto run_until = [&](const char* policy, std::size_t count) {
    constexpr int kTries = 40;
    std::string kept;
    for (int i = 0; i < kTries; ++i) {
      kept = run_with(policy);
      if (!kept.empty() && json::parse(kept).at("costs").size() == count) break;
    }
    return kept;
  };
  EXPECT_EQ(run_with("dense"), "");
  const std::string first = run_until("pooled=0.9", 1);
  ASSERT_EQ(json::parse(first)["costs"].size(), 1u);
  EXPECT_EQ(run_with("pooled=0.5"), first);
  EXPECT_EQ(json::parse(run_until("local", 2))["costs"].size(), 2u);
}

TEST(Run, PruneLogIsReplacedOnlyByAWholeRun) {
  const Scratch scratch;
  const std::string log = scratch.write("log", "of yesterday\n");
  expect_error(run_program(on_tiny({"run"}, {"-f", "-", "--prune-log", log}), long_text(2000)), 1, "512");
  EXPECT_EQ(read_file(log), "of yesterday\n");
  expect_error(run_program(on_tiny({"run"}, {"-f", log, "--prune-log", log})), 1, "both the prompt");
  EXPECT_EQ(read_file(log), "of yesterday\n");
  EXPECT_EQ(run_program(on_tiny({"run"}, {"-p", "corn", "-n", "1", "--prune-log", log})).code, 0);
  EXPECT_EQ(read_file(log), "");  // dense: no stages
}

TEST(Run, PlainProgressOnRequest) {
  const Result result = run_program(on_tiny({"run"}, {"-p", "corn", "-n", "1", "--progress"}));
  EXPECT_NE(result.err.find("loading: 100%"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("reading the prompt: 100%"), std::string::npos) << result.err;
  EXPECT_EQ(run_program(on_tiny({"run"}, {"-p", "corn", "-n", "1"})).err.find("loading"), std::string::npos);
}

}  // namespace
}  // namespace winnow::cli_test
