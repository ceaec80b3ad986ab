#include "tokenizer/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tokenizer/tokenizer.h"

namespace winnow {
namespace {

// Expected values are those of Python's bytes.decode(errors="replace").
TEST(Utf8, RepairsAsPythonDoes) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(utf8_repair("plain \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"),
            "plain \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80");
  EXPECT_EQ(utf8_repair("a\xFF"
                        "b"),
            "a" + r + "b");
  EXPECT_EQ(utf8_repair("\xE2\x82"), r);
  EXPECT_EQ(utf8_repair("\xE2\x82 "), r + " ");
  EXPECT_EQ(utf8_repair("\xF0\x9F\x98"), r);
  EXPECT_EQ(utf8_repair("\xF0\x9F\xC3\xA9"), r + "\xC3\xA9");
  EXPECT_EQ(utf8_repair("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(utf8_repair("\xC0\x80"), r + r);
  EXPECT_EQ(utf8_repair("\xE0\x80\x80"), r + r + r);
  EXPECT_EQ(utf8_repair("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(utf8_repair("\xF8\x88"), r + r);
}

TEST(Utf8, AppendsWhatItDecodes) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    utf8_append(text, c);
    std::size_t bytes = 0;
    ASSERT_EQ(utf8_valid_prefix(text), text.size()) << static_cast<unsigned>(c);
    ASSERT_EQ(utf8_decode(text.data(), bytes), c);
    ASSERT_EQ(bytes, text.size());
  }
}

std::string random_bytes(std::mt19937& random) {
  const std::string pieces[] = {"a",    "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                                "\xE2", "\x82",     "\xF0\x9F",     "\xED",
                                "\xA0", "\xFF",     "\xC0",         " ",
                                "\x80"};
  std::string text;
  for (std::size_t n = random() % 24; n > 0; --n) text += pieces[random() % std::size(pieces)];
  return text;
}

TEST(Utf8Stream, AnySplitGivesTheWholeAndNoHalfCharacters) {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    const std::string text = random_bytes(random);
    Utf8Stream stream;
    std::string total;
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t bytes = random() % (text.size() - i + 1);
      const std::string out = stream.push(std::string_view(text).substr(i, bytes));
      ASSERT_EQ(utf8_valid_prefix(out), out.size());
      total += out;
      i += bytes;
    }
    const std::string rest = stream.finish();
    ASSERT_EQ(utf8_valid_prefix(rest), rest.size());
    ASSERT_EQ(total + rest, utf8_repair(text));
  }
}

TEST(Utf8Stream, HoldsBackOnlyAnUnfinishedCharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("ab\xF0\x9F"), "ab");
  EXPECT_EQ(stream.push("\x98"), "");
  EXPECT_EQ(stream.push("\x80!"), "\xF0\x9F\x98\x80!");
  EXPECT_EQ(stream.push("\xE2\x82"), "");
  EXPECT_EQ(stream.finish(), kReplacementCharacter);
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("again"), "again");
}

}  // namespace
}  // namespace winnow
