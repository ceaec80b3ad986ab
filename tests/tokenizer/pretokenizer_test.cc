#include "tokenizer/pretokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "tokenizer/regex_splitter.h"

namespace winnow {
namespace {

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string qwen2_pattern(const std::string& repeat) {
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})" + repeat +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

std::vector<std::string> split(const Splitter& splitter, const std::string& text) {
  Words words;
  splitter.split(text, words);
  return {words.pieces.begin(), words.pieces.end()};
}

using Pieces = std::vector<std::string>;

TEST(Pretokenizer, Gpt2) {
  const auto splitter = make_gpt2_splitter();
  EXPECT_EQ(split(*splitter, "It's 12  days"), (Pieces{"It", "'s", " 12", " ", " days"}));
  EXPECT_EQ(split(*splitter, "a \n\n b  "), (Pieces{"a", " \n\n", " b", "  "}));
  EXPECT_EQ(split(*splitter, "IT'S"), (Pieces{"IT", "'", "S"}));
}

TEST(Pretokenizer, Qwen2) {
  const auto splitter = make_qwen2_splitter(1);
  EXPECT_EQ(split(*splitter, "IT'S 12\t\tx"), (Pieces{"IT", "'S", " ", "1", "2", "\t", "\tx"}));
  EXPECT_EQ(split(*splitter, "a();\n\n  b"), (Pieces{"a", "();\n\n", " ", " b"}));
  EXPECT_EQ(split(*make_qwen2_splitter(3), "1234567"), (Pieces{"123", "456", "7"}));
}

TEST(Pretokenizer, Digits) {
  EXPECT_EQ(split(*make_digits_splitter(true), "a12b3"), (Pieces{"a", "1", "2", "b", "3"}));
  EXPECT_EQ(split(*make_digits_splitter(false), "a12b3"), (Pieces{"a", "12", "b", "3"}));
}

// The matchers against the expressions they stand for. Only characters all Unicode versions agree on.
TEST(Pretokenizer, MatchersAgreeWithPcre2) {
  const std::string pieces[] = {"a",
                                "Z",
                                "'",
                                "s",
                                "S",
                                "L",
                                "ll",
                                "re",
                                "\xC5\xBF",
                                "1",
                                "23",
                                " ",
                                "  ",
                                "\t",
                                "\n",
                                "\r\n",
                                "\xC2\xA0",
                                "\xE3\x80\x80",
                                "!",
                                "\xE2\x80\x94",
                                "\xC3\xA9",
                                "\xCC\x81",
                                "\xE6\xBC\xA2",
                                "\xF0\x9F\x98\x80",
                                "\xC2\xBD",
                                "_",
                                std::string(1, '\0')};
  const RegexSplitter gpt2_regex(kGpt2, true, "test"), qwen2_regex(qwen2_pattern(""), true, "test"),
      llama3_regex(qwen2_pattern("{1,3}"), true, "test");
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    std::string text = "x";
    for (std::size_t n = random() % 16; n > 0; --n) text += pieces[random() % std::size(pieces)];
    ASSERT_EQ(split(*make_gpt2_splitter(), text), split(gpt2_regex, text));
    ASSERT_EQ(split(*make_qwen2_splitter(1), text), split(qwen2_regex, text));
    ASSERT_EQ(split(*make_qwen2_splitter(3), text), split(llama3_regex, text));
  }
}

TEST(Pretokenizer, RegexKeepsOrDropsGaps) {
  EXPECT_EQ(split(RegexSplitter("[a-z]+", true, "test"), "ab12c"), (Pieces{"ab", "12", "c"}));
  EXPECT_EQ(split(RegexSplitter("[a-z]+", false, "test"), "ab12c"), (Pieces{"ab", "c"}));
  EXPECT_EQ(split(RegexSplitter("(?=c)", true, "test"), "ab12c"), (Pieces{"ab12", "c"}));
}

TEST(Pretokenizer, BadRegexIsAnError) {
  try {
    make_regex_splitter("(a", true, "some/tokenizer.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("some/tokenizer.json"), std::string::npos);
  }
  const RegexSplitter endless("(a+)+$", true, "test");
  EXPECT_THROW(split(endless, std::string(5000, 'a') + "b"), Error);
}

TEST(Pretokenizer, WhatOnigurumaReadsDifferentlyIsAnError) {
  for (const char* pattern :
       {R"(\w+)", R"(a\b)", R"([\S])", R"(\h)", "[a[bc]]", "[a&&b]", "(?m:.)", "(?is:.)"}) {
    EXPECT_THROW(make_regex_splitter(pattern, true, "test"), Error) << pattern;
  }
  for (const char* pattern : {R"(\\w)", "[]a]", R"([\[\]&])", "(?i:a)", "(?:ms)", "(?!s)", R"(\S)"}) {
    EXPECT_NO_THROW(make_regex_splitter(pattern, true, "test")) << pattern;
  }
}

TEST(Pretokenizer, NoSplitterLeavesTheText) {
  Words words;
  Pretokenizer().split("some text", words);
  EXPECT_EQ(words.pieces, std::vector<std::string_view>{"some text"});
  Pretokenizer().split("", words);
  EXPECT_TRUE(words.pieces.empty());
}

}  // namespace
}  // namespace winnow
