// Tokenizers in GGUF metadata, on files made in memory.
#include <cstring>
#include <functional>
#include <span>

#include "core/error.h"
#include "formats/gguf.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/loaders.h"
#include "tokenizer_test_data.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

// Writes GGUF metadata; no tensors.
class GgufBytes {
 public:
  void put_string(const std::string& key, const std::string& value) {
    begin(key, GgufType::kString), text(value);
  }
  void put_integer(const std::string& key, std::uint32_t value) {
    begin(key, GgufType::kUint32), number(value);
  }
  void put_boolean(const std::string& key, bool value) {
    begin(key, GgufType::kBool), number(static_cast<std::uint8_t>(value ? 1 : 0));
  }
  void put_strings(const std::string& key, const std::vector<std::string>& values) {
    begin_array(key, GgufType::kString, values.size());
    for (const std::string& value : values) text(value);
  }
  void put_integers(const std::string& key, const std::vector<std::int32_t>& values) {
    begin_array(key, GgufType::kInt32, values.size());
    for (const std::int32_t value : values) number(value);
  }

  std::string take() const {
    GgufBytes head;
    head.bytes_ = "GGUF";
    head.number(std::uint32_t{3});
    head.number(std::uint64_t{0});
    head.number(keys_);
    std::string file = head.bytes_ + bytes_;
    file.resize((file.size() + 31) / 32 * 32);
    return file;
  }

 private:
  template <class T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(const std::string& value) {
    number(std::uint64_t{value.size()});
    bytes_ += value;
  }
  void begin(const std::string& key, GgufType type) {
    text(key);
    number(static_cast<std::uint32_t>(type));
    ++keys_;
  }
  void begin_array(const std::string& key, GgufType type, std::size_t count) {
    begin(key, GgufType::kArray);
    number(static_cast<std::uint32_t>(type));
    number(std::uint64_t{count});
  }

  std::string bytes_;
  std::uint64_t keys_ = 0;
};

// The tiny tokenizer as a converter would write it.
struct TinyGguf {
  std::string model = "gpt2", pre = "qwen2";
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
  std::function<void(GgufBytes&)> more = [](GgufBytes&) {};

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

  std::string bytes() const {
    GgufBytes gguf;
    gguf.put_string("tokenizer.ggml.model", model);
    gguf.put_string("tokenizer.ggml.pre", pre);
    gguf.put_strings("tokenizer.ggml.tokens", tokens);
    gguf.put_strings("tokenizer.ggml.merges", merges);
    gguf.put_integers("tokenizer.ggml.token_type", types);
    more(gguf);
    return gguf.take();
  }

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
  EXPECT_EQ(
      gguf.error(ErrorCode::kUnsupported),
      "some.gguf: tokenizer.ggml.pre is 'chameleon'; winnow knows gpt-2, smollm, qwen2, deepseek-r1-qwen and "
      "llama-bpe");
  gguf = {};
  gguf.model = "llama";
  EXPECT_NE(gguf.error(ErrorCode::kUnsupported).find("tokenizer.ggml.model is 'llama'"), std::string::npos);
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
