// Files that are wrong, or ask for what winnow does not have.
#include <functional>

#include "core/error.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/loaders.h"
#include "tokenizer_test_data.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

Json tiny() { return read_golden("tiny/tokenizer.json"); }

std::string error_of(const std::string& text, ErrorCode code) {
  try {
    BpeTokenizer(spec_from_tokenizer_json(text, "some/tokenizer.json"));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

std::string bad(const std::function<void(Json&)>& change, ErrorCode code = ErrorCode::kBadFormat) {
  Json json = tiny();
  change(json);
  return error_of(json.dump(), code);
}

std::string unsupported(const std::function<void(Json&)>& change) {
  return bad(change, ErrorCode::kUnsupported);
}

TEST(TokenizerJson, CorruptFiles) {
  const std::string good = tiny().dump();
  EXPECT_EQ(error_of(good, ErrorCode::kBadFormat), "no error");
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("3"), std::string("{}"),
        std::string("{\"model\":3}"), good.substr(0, good.size() / 2), good + "x", std::string(1000, '['),
        std::string("{\"model\":{\"vocab\":[]}}"), std::string("{\"model\":{\"vocab\":{}}}"),
        std::string("{\"a\":1,\"a\":2}"), std::string("\xff\xfe")}) {
    const std::string message = error_of(text, ErrorCode::kBadFormat);
    EXPECT_TRUE(message.starts_with("some/tokenizer.json: ")) << message;
  }
}

TEST(TokenizerJson, EveryTruncationIsAnError) {
  const std::string good = tiny().dump();
  for (std::size_t bytes = 0; bytes < good.size(); bytes += 97) {
    EXPECT_NE(error_of(good.substr(0, bytes), ErrorCode::kBadFormat), "no error") << bytes;
  }
}

TEST(TokenizerJson, BadVocabulary) {
  const std::string file = "some/tokenizer.json: ";
  EXPECT_EQ(
      bad([](Json& j) { j["model"]["vocab"]["a"] = j["model"]["vocab"]["b"]; }).substr(0, file.size() + 10),
      file + "the tokens");
  EXPECT_EQ(bad([](Json& j) { j["model"]["vocab"]["a"] = -1; }),
            file + "the id of the token 'a' is no token id");
  EXPECT_EQ(bad([](Json& j) { j["model"]["vocab"]["a"] = "1"; }),
            file + "the id of the token 'a' is no token id");
  EXPECT_EQ(bad([](Json& j) { j["model"]["vocab"]["a"] = 1.5; }),
            file + "the id of the token 'a' is no token id");
  EXPECT_EQ(bad([](Json& j) { j["model"]["vocab"]["a"] = 2147483647; }),
            file + "the token 'a' has the id 2147483647, but there are at most " +
                std::to_string(tiny()["model"]["vocab"].size() + tiny()["added_tokens"].size()) + " tokens");
  EXPECT_NE(bad([](Json& j) {
              const int id = j["model"]["vocab"]["Q"];
              j["model"]["vocab"].erase("Q");
              j["added_tokens"][0]["id"] = id;  // leaves a gap at its own
            }),
            "no error");
  EXPECT_NE(bad([](Json& j) { j["added_tokens"][0]["id"] = 5; }), "no error");
  EXPECT_NE(bad([](Json& j) { j["added_tokens"][0].erase("content"); }), "no error");
  EXPECT_NE(bad([](Json& j) { j["added_tokens"] = 3; }), "no error");
}

TEST(TokenizerJson, MissingByteToken) {
  const std::string message = bad([](Json& j) {
    const int id = j["model"]["vocab"]["Q"];
    j["model"]["vocab"].erase("Q");
    j["model"]["vocab"]["QQQ"] = id;
    j["model"]["merges"] = Json::array();
  });
  EXPECT_EQ(message, "some/tokenizer.json: the vocabulary has no token for the byte 0x51 ('Q')");
}

TEST(TokenizerJson, BadMerges) {
  const auto first = [](const Json& rule) { return [rule](Json& j) { j["model"]["merges"][0] = rule; }; };
  EXPECT_EQ(bad(first({"q", "zz"})),
            "some/tokenizer.json: merges[0] ('q' and 'zz'): the vocabulary has no 'zz'");
  EXPECT_EQ(bad(first({"Q", "Q"})),
            "some/tokenizer.json: merges[0] ('Q' and 'Q'): the vocabulary has no 'QQ'");
  for (const Json& rule : {Json("ab"), Json("a b c"), Json({"a"}), Json({"a", 3}), Json(7), Json(nullptr)}) {
    EXPECT_EQ(bad(first(rule)), "some/tokenizer.json: model.merges[0] is no pair of tokens");
  }
}

TEST(TokenizerJson, MergesAsStringsAreTheSame) {
  Json json = tiny();
  for (Json& rule : json["model"]["merges"]) {
    rule = rule[0].get<std::string>() + " " + rule[1].get<std::string>();
  }
  const BpeTokenizer pairs(spec_from_tokenizer_json(tiny().dump(), "a")),
      strings(spec_from_tokenizer_json(json.dump(), "b"));
  const std::string text = "The engine reads a long prompt once, and tokens of a tokenizer.";
  EXPECT_EQ(pairs.encode(text, true), strings.encode(text, true));
}

TEST(TokenizerJson, UnsupportedPartsAreNamed) {
  const std::string file = "some/tokenizer.json: ";
  EXPECT_EQ(unsupported([](Json& j) { j["normalizer"]["type"] = "Lowercase"; }),
            file + "normalizer: Lowercase is not supported");
  EXPECT_EQ(unsupported([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["type"] = "Whitespace"; }),
            file + "pre_tokenizer.pretokenizers[0]: Whitespace is not supported");
  EXPECT_EQ(unsupported([](Json& j) { j["pre_tokenizer"] = nullptr; }),
            file + "decoder: ByteLevel is not supported");
  EXPECT_EQ(
      unsupported([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"; }),
      file + "pre_tokenizer.pretokenizers[0].behavior: MergedWithNext is not supported");
  EXPECT_EQ(unsupported([](Json& j) { j["model"]["type"] = "Unigram"; }),
            file + "model.type: Unigram is not supported");
  EXPECT_EQ(unsupported([](Json& j) { j["model"]["dropout"] = 0.1; }),
            file + "model.dropout: dropout is not supported");
  EXPECT_NE(unsupported([](Json& j) { j["model"]["byte_fallback"] = true; }), "no error");
  EXPECT_NE(unsupported([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }), "no error");
  EXPECT_NE(unsupported([](Json& j) { j["post_processor"] = {{"type", "BertProcessing"}}; }), "no error");
  EXPECT_NE(unsupported([](Json& j) { j["decoder"] = {{"type", "Metaspace"}}; }), "no error");
}

TEST(TokenizerJson, TemplateProcessingPutsTokensAroundTheText) {
  Json json = tiny();
  const int id = json["added_tokens"][0]["id"];
  json["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [], "special_tokens": {"x": {"id": "x", "ids": [0], "tokens": ["x"]}}})");
  json["post_processor"]["special_tokens"]["x"]["ids"] = {id};
  const BpeTokenizer tokenizer(spec_from_tokenizer_json(json.dump(), "test"));
  EXPECT_EQ(tokenizer.encode("", true), std::vector<TokenId>{id});
  EXPECT_EQ(tokenizer.encode("a", true).size(), 2u);
}

TEST(TokenizerFolder, StopTokensAndChatTemplate) {
  const auto tokenizer = open_tokenizer(golden_path("tiny"));
  const TokenId end = tokenizer->encode("<|im_end|>", true).at(0),
                document = tokenizer->encode("<|endoftext|>", true).at(0);
  EXPECT_EQ(tokenizer->stop_tokens(), (std::vector<TokenId>{end, document}));
  EXPECT_TRUE(tokenizer->has_chat_template());
  EXPECT_THROW(tokenizer->token_bytes(-1), Error);
  EXPECT_THROW(tokenizer->token_bytes(static_cast<TokenId>(tokenizer->vocab_size())), Error);
  EXPECT_EQ(tokenizer->decode({end, tokenizer->encode("a", true).at(0)}, /*skip_control=*/true), "a");
}

TEST(TokenizerFolder, UnknownOrNoChatTemplate) {
  const auto message = [](std::optional<std::string> jinja) -> std::string {
    TokenizerSpec spec = spec_from_tokenizer_json(tiny().dump(), "some/model");
    spec.chat_template = std::move(jinja);
    const BpeTokenizer tokenizer(std::move(spec));
    try {
      tokenizer.encode_chat({{"user", "x"}}, true);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message("[INST]").find("does not know this model's chat template"), std::string::npos);
  EXPECT_NE(message(std::nullopt).find("no chat template"), std::string::npos);
}

// A folder of its own that is removed at the end.
class TokenizerFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "winnow_tokenizer_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << text;
  }
  std::string error_of_opening(const std::string& path) const {
    try {
      open_tokenizer(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  std::string folder_;
};

std::string merges_text(const Json& json) {
  std::string text = "#version: 0.2\n";
  for (const Json& rule : json["model"]["merges"]) {
    text += rule[0].get<std::string>() + " " + rule[1].get<std::string>() + "\n";
  }
  return text;
}

TEST_F(TokenizerFiles, VocabAndMergesOfQwen2) {
  const Json json = tiny();
  write("vocab.json", json["model"]["vocab"].dump());
  write("merges.txt", merges_text(json));
  Json decoder = Json::object();
  for (const Json& token : json["added_tokens"]) decoder[std::to_string(token["id"].get<int>())] = token;
  write("tokenizer_config.json",
        Json({{"tokenizer_class", "Qwen2Tokenizer"}, {"added_tokens_decoder", decoder}}).dump());
  const auto from_vocab = open_tokenizer(folder_), from_json = open_tokenizer(golden_path("tiny"));
  EXPECT_EQ(from_vocab->vocab_size(), from_json->vocab_size());
  const std::string text = "It's 2024: <|im_end|> e\xCC\x81 [MASK] engine\n\n";
  EXPECT_EQ(from_vocab->encode(text, true), from_json->encode(text, true));
  write("merges.txt", "#version: 0.2\na zz\n");
  EXPECT_EQ(error_of_opening(folder_),
            folder_ + "/merges.txt: merges[0] ('a' and 'zz'): the vocabulary has no 'zz'");
  write("tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer"})");
  write("merges.txt", "");
  EXPECT_NE(error_of_opening(folder_).find("T5Tokenizer"), std::string::npos);
}

TEST_F(TokenizerFiles, NamesWithAPrefix) {
  EXPECT_EQ(error_of_opening(folder_),
            folder_ + ": there is no tokenizer.json, vocab.json or tokenizer.model here");
  write("one-tokenizer.json", tiny().dump());
  EXPECT_EQ(error_of_opening(folder_), "no error");
  write("two-tokenizer.json", tiny().dump());
  EXPECT_NE(error_of_opening(folder_).find("of 2 models"), std::string::npos);
  EXPECT_EQ(error_of_opening(folder_ + "/two-tokenizer.json"), "no error");
}

TEST_F(TokenizerFiles, ConfigFaultsNameFileAndKey) {
  write("tokenizer.json", tiny().dump());
  write("tokenizer_config.json", R"({"eos_token": "<nowhere>"})");
  EXPECT_EQ(error_of_opening(folder_),
            folder_ + "/tokenizer_config.json: eos_token is not in the vocabulary");
  write("tokenizer_config.json", R"({"eos_token": {"content": "<|im_end|>"}, "chat_template": 3})");
  EXPECT_EQ(error_of_opening(folder_), folder_ + "/tokenizer_config.json: chat_template is no string");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "x"}]})");
  EXPECT_TRUE(open_tokenizer(folder_)->has_chat_template());
  write("generation_config.json", R"({"eos_token_id": [1, "x"]})");
  EXPECT_EQ(error_of_opening(folder_), folder_ + "/generation_config.json: eos_token_id[1] is no token id");
  write("generation_config.json", R"({"eos_token_id": 100000})");
  EXPECT_NE(error_of_opening(folder_).find("the end-of-text token is 100000"), std::string::npos);
}

}  // namespace
}  // namespace winnow
