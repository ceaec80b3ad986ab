// Tokenizers in GGUF metadata, on files made in memory.
#include <functional>
#include <span>

#include "core/error.h"
#include "formats/gguf.h"
#include "gguf_bytes.h"
#include "golden_cases.h"
#include "sentencepiece_bytes.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/loaders.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

// A GGUF file with a tokenizer, made in memory.
struct GgufInMemory {
  std::function<void(GgufBytes&)> more = [](GgufBytes&) {};  // adds further keys

  virtual ~GgufInMemory() = default;
  virtual std::string bytes() const = 0;

  std::unique_ptr<Tokenizer> open() const {
    const std::string file = bytes();
    const GgufFile gguf(std::as_bytes(std::span(file)), "some.gguf");
    return std::make_unique<BpeTokenizer>(spec_from_gguf(gguf));
  }

  std::string error(ErrorCode code) const {
    try {
      open();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "no error";
  }
};

// The tiny tokenizer as a converter would write it.
struct TinyGguf : GgufInMemory {
  std::string model = "gpt2", pre = "qwen2";
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;

  TinyGguf() {
    const Json json = read_golden("tiny/tokenizer.json");
    tokens.resize(json["model"]["vocab"].size() + json["added_tokens"].size());
    types.assign(tokens.size(), 1);
    for (const auto& [token, id] : json["model"]["vocab"].items()) tokens[id.get<std::size_t>()] = token;
    for (const Json& token : json["added_tokens"]) {
      tokens[token["id"].get<std::size_t>()] = token["content"];
      types[token["id"].get<std::size_t>()] = token["special"].get<bool>() ? 3 : 4;
    }
    for (const Json& rule : json["model"]["merges"]) {
      merges.push_back(rule[0].get<std::string>() + " " + rule[1].get<std::string>());
    }
  }

  std::string bytes() const override {
    GgufBytes gguf;
    gguf.put_string("tokenizer.ggml.model", model);
    gguf.put_string("tokenizer.ggml.pre", pre);
    gguf.put_strings("tokenizer.ggml.tokens", tokens);
    gguf.put_strings("tokenizer.ggml.merges", merges);
    gguf.put_integers("tokenizer.ggml.token_type", types);
    more(gguf);
    return gguf.take();
  }
};

// Each name of tokenizer.ggml.pre against the tokenizer.json of the models that have it.
TEST(TokenizerGguf, Pretokenizers) {
  const Json all = read_golden("gguf-pre.json");
  for (const auto& [pre, golden] : all.items()) {
    SCOPED_TRACE(pre);
    TinyGguf gguf;
    gguf.pre = pre;
    std::vector<std::string> merges;
    for (std::size_t i = 0; i < gguf.merges.size(); ++i) {
      if (i % 3 != 2) merges.push_back(gguf.merges[i]);
    }
    gguf.merges = merges;
    expect_cases(*gguf.open(), golden["cases"]);
  }
}

// The same tokenizers written as tokenizer.json.
TEST(TokenizerGguf, PretokenizersOfTokenizerJson) {
  const Json all = read_golden("gguf-pre.json");
  for (const auto& [pre, golden] : all.items()) {
    SCOPED_TRACE(pre);
    Json json = read_golden("tiny/tokenizer.json");
    json["normalizer"] = golden["normalizer"];
    json["pre_tokenizer"] = golden["pre_tokenizer"];
    json["model"]["ignore_merges"] = golden["ignore_merges"];
    Json merges = Json::array();
    for (std::size_t i = 0; i < json["model"]["merges"].size(); ++i) {
      if (i % 3 != 2) merges.push_back(json["model"]["merges"][i]);
    }
    json["model"]["merges"] = merges;
    for (Json& token : json["added_tokens"]) {
      for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) token[flag] = false;
    }
    expect_cases(BpeTokenizer(spec_from_tokenizer_json(json.dump(), "test")), golden["cases"]);
  }
}

// A whole word may be spelled like a control token; text must not become one by it.
TEST(TokenizerGguf, IgnoringMergesMakesNoControlTokens) {
  TinyGguf gguf;
  gguf.pre = "llama-bpe";
  gguf.tokens.push_back("STOP");
  gguf.types.push_back(3);
  const auto tokenizer = gguf.open();
  EXPECT_EQ(tokenizer->encode("STOP", true).size(), 1u);
  EXPECT_GT(tokenizer->encode("STOP", false).size(), 1u);
}

// A model of SentencePiece as a converter writes it.
struct SpGguf : GgufInMemory {
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;

  explicit SpGguf(const SentencePieces& pieces) : tokens(pieces.spellings), scores(pieces.scores) {
    for (const PieceType type : pieces.types) types.push_back(static_cast<std::int32_t>(type));
  }

  std::string bytes() const override {
    GgufBytes gguf;
    gguf.put_string("tokenizer.ggml.model", "llama");
    gguf.put_string("tokenizer.ggml.pre", "default");
    gguf.put_strings("tokenizer.ggml.tokens", tokens);
    gguf.put_floats("tokenizer.ggml.scores", scores);
    gguf.put_integers("tokenizer.ggml.token_type", types);
    more(gguf);
    return gguf.take();
  }
};

TEST(TokenizerGgufLlama, SameIdsAsTheModelFile) {
  for (const std::string name : {"llama", "gemma", "plain", "holes"}) {
    SpGguf gguf(read_sentence_pieces(read_test_file(golden_path("sp-" + name + "/tokenizer.model")), "test"));
    const bool prefix = name != "gemma";
    gguf.more = [&](GgufBytes& file) { file.put_boolean("tokenizer.ggml.add_space_prefix", prefix); };
    SCOPED_TRACE(name);
    expect_cases(*gguf.open(), read_golden("sp-" + name + ".json")["cases"], "sp-cases.json");
  }
}

// As Gemma's files have it: the type of a control token.
TEST(TokenizerGgufLlama, AKeyNamesTheUnknownToken) {
  SpModel model;
  model.add("a", 0);
  SpGguf gguf(model.pieces);
  const auto named = [](std::int64_t id) {
    return [id](GgufBytes& file) {
      file.put_integer("tokenizer.ggml.unknown_token_id", static_cast<std::uint32_t>(id));
      file.put_boolean("tokenizer.ggml.add_space_prefix", false);
    };
  };
  gguf.more = named(0);
  const auto typed = gguf.open()->encode("a?", true);
  EXPECT_EQ(typed.back(), 0);
  gguf.types[0] = static_cast<std::int32_t>(PieceType::kControl);
  EXPECT_EQ(gguf.open()->encode("a?", true), typed);
  gguf.more = named(4);
  EXPECT_EQ(gguf.error(ErrorCode::kBadFormat),
            "some.gguf: tokenizer.ggml.unknown_token_id is 4, but there are 4 tokens");
}

TEST(TokenizerGgufLlama, EndsOfTexts) {
  SpModel model;
  model.add("a", 0);
  model.add(std::string(kSpaceSign), 0);
  SpGguf gguf(model.pieces);
  gguf.more = [](GgufBytes& file) {
    file.put_integer("tokenizer.ggml.bos_token_id", 1);
    file.put_integer("tokenizer.ggml.eos_token_id", 2);
  };
  EXPECT_EQ(gguf.open()->encode("a", true), (std::vector<TokenId>{1, 4, 3}));
  EXPECT_EQ(gguf.open()->stop_tokens(), std::vector<TokenId>{2});
  const auto ends = gguf.more;
  gguf.more = [&](GgufBytes& file) {
    ends(file);
    file.put_boolean("tokenizer.ggml.add_bos_token", false);
    file.put_boolean("tokenizer.ggml.add_eos_token", true);
    file.put_boolean("tokenizer.ggml.add_space_prefix", false);
  };
  EXPECT_EQ(gguf.open()->encode("a", true), (std::vector<TokenId>{3, 2}));
}

TEST(TokenizerGgufLlama, FaultsNameFileAndKey) {
  SpModel model;
  model.add("a", 0);
  SpGguf gguf(model.pieces);
  EXPECT_EQ(gguf.error(ErrorCode::kBadFormat), "no error");
  gguf.scores.pop_back();
  EXPECT_EQ(gguf.error(ErrorCode::kBadFormat), "some.gguf: tokenizer.ggml.scores has 3 entries for 4 tokens");
  gguf = SpGguf(model.pieces);
  gguf.types[3] = 7;
  EXPECT_EQ(gguf.error(ErrorCode::kBadFormat),
            "some.gguf: tokenizer.ggml.token_type: 7 is no type of a token (1 to 6)");
  gguf = SpGguf(model.pieces);
  gguf.types[0] = 1;
  EXPECT_EQ(gguf.error(ErrorCode::kBadFormat), "some.gguf: there is no unknown token");
  gguf = SpGguf(model.pieces);
  gguf.more = [](GgufBytes& file) { file.put_boolean("tokenizer.ggml.remove_extra_whitespaces", true); };
  EXPECT_EQ(gguf.error(ErrorCode::kUnsupported),
            "some.gguf: tokenizer.ggml.remove_extra_whitespaces true is not supported");
}

TEST(TokenizerGguf, SameIdsAsTokenizerJson) {
  const auto from_gguf = TinyGguf().open(), from_json = open_tokenizer(golden_path("tiny"));
  const std::string text = "It's 2024 <|im_end|><think> e\xCC\x81 and tokens, \xF0\x9F\x98\x80\n\n  x";
  EXPECT_EQ(from_gguf->encode(text, true), from_json->encode(text, true));
  EXPECT_EQ(from_gguf->encode(text, false), from_json->encode(text, false));
}

TEST(TokenizerGguf, BeginOfTextStopTokensAndTemplate) {
  TinyGguf gguf;
  const auto plain = gguf.open();
  EXPECT_FALSE(plain->has_chat_template());
  EXPECT_EQ(plain->stop_tokens().size(), 2u);  // <|im_end|> and <|endoftext|>, though no key names them
  gguf.more = [](GgufBytes& file) {
    file.put_boolean("tokenizer.ggml.add_bos_token", true);
    file.put_integer("tokenizer.ggml.bos_token_id", 7);
    file.put_integer("tokenizer.ggml.eos_token_id", 9);
    file.put_string("tokenizer.chat_template", "x");
  };
  const auto tokenizer = gguf.open();
  std::vector<TokenId> expected = plain->encode("Hello", true);
  expected.insert(expected.begin(), 7);
  EXPECT_EQ(tokenizer->encode("Hello", true), expected);
  EXPECT_EQ(tokenizer->stop_tokens().front(), 9);
  EXPECT_TRUE(tokenizer->has_chat_template());
}

TEST(TokenizerGguf, FaultsNameFileAndKey) {
  TinyGguf gguf;
  gguf.pre = "chameleon";
  EXPECT_EQ(gguf.error(ErrorCode::kUnsupported),
            "some.gguf: tokenizer.ggml.pre is 'chameleon'; winnow knows gpt-2, smollm, starcoder, qwen2, "
            "deepseek-r1-qwen, llama-bpe, llama3, llama-v3, tekken, gpt-4o, deepseek-v3");
  gguf = {};
  gguf.model = "t5";
  EXPECT_EQ(gguf.error(ErrorCode::kUnsupported),
            "some.gguf: tokenizer.ggml.model is 't5'; winnow knows gpt2 (byte-level BPE) and llama "
            "(SentencePiece BPE)");
  gguf = {};
  gguf.merges[3] = "Q";
  EXPECT_EQ(gguf.error(ErrorCode::kBadFormat),
            "some.gguf: merges[3] is 'Q', not two tokens with a space between them");
  gguf = {};
  gguf.types.pop_back();
  EXPECT_NE(gguf.error(ErrorCode::kBadFormat).find("token_type has"), std::string::npos);
  gguf = {};
  gguf.tokens[5] = gguf.tokens[4];
  EXPECT_NE(gguf.error(ErrorCode::kBadFormat), "no error");
  gguf = {};
  gguf.tokens.clear();
  gguf.types.clear();
  EXPECT_EQ(gguf.error(ErrorCode::kBadFormat), "some.gguf: the vocabulary has no tokens");
  gguf = {};
  gguf.more = [](GgufBytes& file) { file.put_integer("tokenizer.ggml.eos_token_id", 100000); };
  EXPECT_NE(gguf.error(ErrorCode::kBadFormat).find("tokenizer.ggml.eos_token_id is 100000"),
            std::string::npos);
  gguf.more = [](GgufBytes& file) { file.put_boolean("tokenizer.ggml.add_bos_token", true); };
  EXPECT_NE(gguf.error(ErrorCode::kBadFormat).find("tokenizer.ggml.bos_token_id is missing"),
            std::string::npos);
}

}  // namespace
}  // namespace winnow
