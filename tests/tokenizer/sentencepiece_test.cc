// SentencePiece BPE: ids of tokenizer.model against those of `sentencepiece`, of tokenizer.json against those
// of `tokenizers` (scripts/make_tokenizer_golden.py), and what is wrong with files.
#include <chrono>
#include <cmath>
#include <functional>

#include "core/error.h"
#include "golden_cases.h"
#include "sentencepiece_bytes.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/loaders.h"
#include "tokenizer/utf8.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

std::string model_path(const std::string& name) { return golden_path("sp-" + name + "/tokenizer.model"); }

// Without the begin-of-text token, which `sentencepiece` does not add by itself.
std::unique_ptr<Tokenizer> open_model(const std::string& name) {
  return std::make_unique<BpeTokenizer>(spec_from_sentencepiece(read_test_file(model_path(name)), {}, name));
}

class SentencePieceGolden : public testing::TestWithParam<const char*> {};

TEST_P(SentencePieceGolden, HardCases) {
  const std::string name = GetParam();
  expect_cases(*open_model(name), read_golden("sp-" + name + ".json")["cases"], "sp-cases.json");
}

INSTANTIATE_TEST_SUITE_P(Models, SentencePieceGolden, testing::Values("llama", "gemma", "plain", "holes"));

// A space sign written in the text comes back as a space, as in `sentencepiece`.
TEST(SentencePieceGolden, TextsComeBack) {
  for (const char* name : {"llama", "gemma"}) {
    const auto tokenizer = open_model(name);
    for (const Case& c : read_cases("sp-cases.json")) {
      const std::string expected = replace_all(utf8_repair(c.text), kSpaceSign, " ");
      const auto ids = tokenizer->encode(c.text, /*parse_special=*/false);
      EXPECT_EQ(tokenizer->decode(ids, /*skip_control=*/true), expected) << name << ", " << c.name;
      TokenStream stream(*tokenizer, /*begins_text=*/true);
      std::string streamed;
      for (const TokenId id : ids) {
        const std::string part = stream.push(id);
        ASSERT_EQ(utf8_valid_prefix(part), part.size());
        streamed += part;
      }
      EXPECT_EQ(streamed + stream.finish(), expected) << name << ", " << c.name;
    }
  }
}

TEST(SentencePieceGolden, TokenizerJsonVariants) {
  const Json golden = read_golden("sp-variants.json");
  for (const Json& variant : golden["variants"]) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    Json json = variant["parts"];
    json["model"] = golden["models"][variant["model"].get<std::string>()];
    const BpeTokenizer tokenizer(spec_from_tokenizer_json(json.dump(), "variant"));
    expect_cases(tokenizer, variant["cases"], "sp-cases.json");
  }
}

TEST(SentencePiece, LeadingSpaceGoesOnceAndOnlyAtTheBeginning) {
  const auto tokenizer = open_model("llama");
  const auto ids = [&](const std::string& text) { return tokenizer->encode(text, /*parse_special=*/true); };
  const auto stream = [&](const std::vector<TokenId>& tokens, bool begins_text) {
    TokenStream out(*tokenizer, begins_text);
    std::string text;
    for (const TokenId id : tokens) text += out.push(id);
    return text + out.finish();
  };
  EXPECT_EQ(tokenizer->decode(ids("a b"), true), "a b");
  EXPECT_EQ(tokenizer->decode(ids("  a b "), true), "  a b ");
  EXPECT_EQ(tokenizer->decode(ids("<s>a</s>b"), true), "a b");
  EXPECT_EQ(tokenizer->decode(ids("<s>a"), false), "<s> a");
  EXPECT_EQ(stream(ids("  a b "), true), "  a b ");
  EXPECT_EQ(stream(ids("<s>a"), true), "a");
  EXPECT_EQ(stream(ids("a b"), false), " a b");
  EXPECT_EQ(open_model("gemma")->decode(open_model("gemma")->encode(" a", true), true), " a");
}

TEST(SentencePiece, HalfCharactersWaitForTheirBytes) {
  const auto tokenizer = open_model("llama");
  const auto ids = tokenizer->encode("\xF0\x9F\x9A\x82", /*parse_special=*/false);  // no piece, so four bytes
  ASSERT_EQ(ids.size(), 5u);
  TokenStream stream(*tokenizer, /*begins_text=*/true);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(stream.push(ids[i]), "");
  EXPECT_EQ(stream.push(ids[4]), "\xF0\x9F\x9A\x82");
}

// Without pre-tokenisation the whole text is one word.
TEST(SentencePiece, MegabyteWordsTakeNoQuadraticTime) {
  const auto tokenizer = open_model("llama");
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_GT(tokenizer->encode(std::string(1 << 20, 'a'), false).size(), std::size_t{1} << 16);
  EXPECT_GT(tokenizer->encode(std::string(1 << 20, ' '), false).size(), std::size_t{1} << 15);
  // Quadratic merging would take minutes; the bound is wide for sanitizers and busy machines.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

// The definition, without cutting at spaces and without ranks: join the best-scored neighbours, leftmost
// first.
TEST(SentencePiece, MergingFollowsTheDefinition) {
  SpModel model;
  for (const char* piece : {"a", "b", kSpaceSign.data(), "ab", "ba", "aab", "b\xE2\x96\x81",
                            "b\xE2\x96\x81"
                            "a",
                            "aa", "bab"}) {
    model.add(piece, std::round(std::sin(static_cast<float>(model.size())) * 3));
  }
  const BpeTokenizer tokenizer(model.spec());
  const auto reference = [&](std::string text) {
    std::vector<std::string> parts;
    for (const char c : "_" + text)
      parts.push_back(c == ' ' || c == '_' ? std::string(kSpaceSign) : std::string(1, c));
    while (true) {
      std::size_t best = parts.size();
      for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto score = model.score(parts[i] + parts[i + 1]);
        if (score && (best == parts.size() || *score > *model.score(parts[best] + parts[best + 1]))) best = i;
      }
      if (best == parts.size()) break;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    std::string joined;
    for (const std::string& part : parts) joined += replace_all(part, kSpaceSign, "_") + "|";
    return joined;
  };
  std::uint32_t random = 1;
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (std::size_t n = 1 + round % 70; n > 0; --n) {
      random = random * 1664525 + 1013904223;
      text += "ab "[(random >> 16) % 3];
    }
    std::string joined;
    for (const TokenId id : tokenizer.encode(text, false)) {
      joined += replace_all(std::string(tokenizer.token_bytes(id)), " ", "_") + "|";
    }
    ASSERT_EQ(joined, reference(text)) << text;
  }
}

std::string error_of(const std::string& bytes, ErrorCode code, std::vector<AddedToken> added = {}) {
  try {
    BpeTokenizer(spec_from_sentencepiece(bytes, std::move(added), "some/tokenizer.model"));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

std::string error_of(const std::function<void(SpModel&)>& change, ErrorCode code) {
  SpModel model;
  model.add("a", 0);
  change(model);
  return error_of(model.bytes(), code);
}

TEST(SentencePieceModel, EveryTruncationIsAnErrorOrAShorterModel) {
  const std::string good = read_test_file(model_path("llama"));
  EXPECT_EQ(error_of(good, ErrorCode::kBadFormat), "no error");
  // Cut between two pieces a file is well-formed; then what it lacks is wrong.
  for (std::size_t bytes = 0; bytes < good.size(); bytes += bytes < 300 ? 1 : 61) {
    try {
      BpeTokenizer(spec_from_sentencepiece(good.substr(0, bytes), {}, "some/tokenizer.model"));
      ADD_FAILURE() << "no error with " << bytes << " bytes";
    } catch (const Error& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with("some/tokenizer.model: ")) << error.what();
    }
  }
}

TEST(SentencePieceModel, BadFields) {
  const std::string file = "some/tokenizer.model: ";
  const auto broken = [](const std::string& bytes) { return error_of(bytes, ErrorCode::kBadFormat); };
  EXPECT_EQ(broken(std::string("\x0A\x7Fxx")), file + "the message is cut short or damaged behind field 1");
  EXPECT_EQ(broken(std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01")),
            file + "the message is cut short or damaged behind field 1");
  EXPECT_EQ(broken(std::string(11, '\xFF')), file + "a number behind field 0 has more than ten bytes");
  EXPECT_EQ(broken(std::string("\x0B")), file + "field 1 has the wire type 3");
  EXPECT_EQ(broken(std::string(1, '\0')), file + "0 is no number of a field");
  EXPECT_EQ(broken(std::string("\x08\x01")),
            file + "field 1 has the wire type 0, it should be 2 (a string or message)");
  EXPECT_EQ(broken(proto_message(1, "\x08\x01")),
            file + "token 0: field 1 has the wire type 0, it should be 2 (a string or message)");
  EXPECT_EQ(broken(proto_message(1, "\x10\x01")),
            file + "token 0: field 2 has the wire type 0, it should be 5 (a float)");
  EXPECT_EQ(broken(proto_message(1, proto_integer(3, 9))),
            file + "token 0: 9 is no type of a token (1 to 6)");
  EXPECT_EQ(broken(proto_message(2, proto_message(3, "x"))),
            file + "trainer_spec: field 3 has the wire type 2, it should be 0 (a number)");
  EXPECT_EQ(broken(""), file + "there are no tokens");
}

TEST(SentencePieceModel, BadPieces) {
  const std::string file = "some/tokenizer.model: ";
  const auto bad = [](const std::function<void(SpModel&)>& change) {
    return error_of(change, ErrorCode::kBadFormat);
  };
  EXPECT_EQ(bad([](SpModel&) {}), "no error");
  EXPECT_EQ(bad([](SpModel& m) { m.add("a", 0); }), file + "the tokens 3 and 4 are both spelled 'a'");
  EXPECT_EQ(bad([](SpModel& m) { m.add("", 0); }), file + "token 4 is empty");
  EXPECT_EQ(bad([](SpModel& m) { m.add("\xC3", 0); }), file + "token 4 is not valid UTF-8");
  EXPECT_EQ(bad([](SpModel& m) { m.add("b", NAN); }), file + "the score of token 4 is no number");
  EXPECT_EQ(bad([](SpModel& m) { m.add("<u>", 0, PieceType::kUnknown); }),
            file + "the tokens 0 and 4 are both the unknown token");
  EXPECT_EQ(bad([](SpModel& m) { m.trainer += proto_integer(35, 1); }),
            file + "trainer_spec.byte_fallback is true, but there are no tokens of that type");
  EXPECT_EQ(bad([](SpModel& m) { m.trainer += proto_integer(35, 1), m.add("<0x00>", 0, PieceType::kByte); }),
            file + "bytes are to have tokens, but the vocabulary has no '<0x01>'");
  EXPECT_EQ(bad([](SpModel& m) { m.trainer += proto_integer(41, 99); }),
            file + "trainer_spec.bos_id is 99, but there are 4 tokens");
}

TEST(SentencePieceModel, UnsupportedPartsAreNamed) {
  const std::string file = "some/tokenizer.model: ";
  const auto refused = [](const std::function<void(SpModel&)>& change) {
    return error_of(change, ErrorCode::kUnsupported);
  };
  EXPECT_EQ(refused([](SpModel& m) { m.trainer = proto_integer(3, 1); }),
            file + "the SentencePiece model is of the type 1 (unigram); winnow runs BPE");
  EXPECT_EQ(refused([](SpModel& m) { m.trainer.clear(); }),
            file + "the SentencePiece model is of the type 1 (unigram); winnow runs BPE");
  EXPECT_EQ(
      refused([](SpModel& m) { m.normalizer += proto_message(1, "nmt_nfkc") + proto_message(2, "xx"); }),
      file + "the normalizer nmt_nfkc is not supported");
  EXPECT_EQ(refused([](SpModel& m) { m.normalizer = proto_integer(4, 1); }),
            file + "normalizer_spec.remove_extra_whitespaces true is not supported");
  EXPECT_EQ(refused([](SpModel& m) { m.normalizer += proto_integer(5, 0); }),
            file + "normalizer_spec.escape_whitespaces false is not supported");
  EXPECT_EQ(refused([](SpModel& m) { m.trainer += proto_integer(24, 1); }),
            file + "trainer_spec.treat_whitespace_as_suffix true is not supported");
  EXPECT_EQ(refused([](SpModel& m) { m.add("aa", 0, PieceType::kUnused); }),
            file + "token 4 ('aa') is marked as unused but can be merged");
  EXPECT_EQ(refused([](SpModel& m) { m.add(std::string(5000, 'a'), 0); }),
            file + "token 4 has 5000 bytes; 4096 are supported");
}

TEST(SentencePieceModel, TokensFromBesideTheFile) {
  SpModel model;
  model.add("a", 0);
  model.add("b", 0);
  const auto with = [&](std::vector<AddedToken> added) {
    return BpeTokenizer(spec_from_sentencepiece(model.bytes(), std::move(added), "test"));
  };
  const auto tokenizer = with({{.content = "<end>", .id = 6, .special = true}, {.content = "<x>", .id = 5}});
  EXPECT_EQ(tokenizer.encode("<x>a<end>b", true), (std::vector<TokenId>{0, 5, 3, 6, 0, 4}));
  EXPECT_TRUE(tokenizer.is_control(6));
  EXPECT_FALSE(tokenizer.is_control(5));
  EXPECT_EQ(error_of(model.bytes(), ErrorCode::kBadFormat, {{.content = "<x>", .id = 7}}),
            "some/tokenizer.model: the added token '<x>' has the id 7, but there are 5 tokens");
  EXPECT_EQ(error_of(model.bytes(), ErrorCode::kBadFormat, {{.content = "<x>", .id = 4}}),
            "some/tokenizer.model: token 4 is 'b', as an added token '<x>'");
}

TEST(SentencePieceModel, FolderSaysWhatGoesAroundAText) {
  const auto tokenizer = open_tokenizer(model_path("llama"));
  const auto plain = open_model("llama")->encode("Hello", true);
  auto ids = tokenizer->encode("Hello", true);
  EXPECT_EQ(ids.front(), 1);
  EXPECT_TRUE(tokenizer->is_control(1));
  EXPECT_EQ(tokenizer->stop_tokens(), std::vector<TokenId>{2});
  ids.erase(ids.begin());
  EXPECT_EQ(ids, plain);
  EXPECT_EQ(open_tokenizer(golden_path("sp-gemma"))->encode("x", true).front(), 2);
}

}  // namespace
}  // namespace winnow
