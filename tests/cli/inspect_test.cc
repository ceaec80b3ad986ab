#include "cli/program.h"

namespace winnow::cli_test {
namespace {

TEST(Inspect, TextNamesWhatMatters) {
  const Result result = run_program({"inspect", tiny_llama()});
  EXPECT_EQ(result.code, 0) << result.err;
  for (const char* part :
       {"tiny-llama", "llama", "512 tokens", "F32", "chat template", "KV cache MB", "keep08"}) {
    EXPECT_NE(result.out.find(part), std::string::npos) << part << " is missing in\n" << result.out;
  }
  EXPECT_EQ(result.out.find("token_embd"), std::string::npos);
}

TEST(Inspect, JsonOfFileAndFolder) {
  const json file = json::parse(run_program({"inspect", tiny_llama(), "--json"}).out);
  const json folder = json::parse(run_program({"inspect", "-m", model_path("tiny-llama"), "--json"}).out);
  EXPECT_EQ(file["architecture"]["layers"], 6);
  EXPECT_EQ(file["architecture"]["context"], 512);
  EXPECT_EQ(file["tokenizer"]["chat_template"], true);
  EXPECT_EQ(file["model"]["shape_hash"], folder["model"]["shape_hash"]);
  EXPECT_EQ(file["architecture"], folder["architecture"]);
  EXPECT_GT(file["weight_bytes"], 0);
  ASSERT_FALSE(file["memory"].empty());
  EXPECT_EQ(file["memory"].back()["prompt_tokens"], 512);
  EXPECT_GT(file["memory"].back()["kv_bytes"], 0);
  EXPECT_TRUE(file["presets"]["keep08"].contains("error"));  // six layers are too few
}

TEST(Inspect, TensorsAreListed) {
  const json report = json::parse(run_program({"inspect", tiny_llama(), "--json", "--tensors"}).out);
  std::int64_t elements = 0;
  for (const json& tensor : report["tensors"]) {
    std::int64_t product = 1;
    for (const json& extent : tensor["shape"]) product *= extent.get<std::int64_t>();
    elements += product;
  }
  EXPECT_EQ(elements, report["tensor_types"]["F32"]["elements"]);
  EXPECT_NE(run_program({"inspect", tiny_llama(), "--tensors"}).out.find("model.embed_tokens.weight"),
            std::string::npos);
}

TEST(Inspect, RandomWeightsAreLabelled) {
  const Result result = run_program({"inspect", "--random-weights", "qwen2-0.5b"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("random weights"), std::string::npos);
  EXPECT_NE(result.out.find("before layers 4, 7, 10, 13, 16, 19"), std::string::npos) << result.out;
}

}  // namespace
}  // namespace winnow::cli_test
