#include "tokenizer/added_tokens.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

std::string split(const AddedTokenSet& set, std::string_view text, bool parse_special = true) {
  std::string out;
  for (const TextPiece& piece : set.split(text, parse_special)) {
    out += piece.id < 0 ? "[" + std::string(piece.text) + "]" : std::to_string(piece.id);
  }
  return out;
}

TEST(AddedTokens, LeftmostThenLongest) {
  AddedTokenSet set;
  set.add({.content = "ab", .id = 1});
  set.add({.content = "abcd", .id = 2});
  set.add({.content = "bcde", .id = 3});
  set.add({.content = "", .id = 4});
  EXPECT_EQ(split(set, "xabcdey"), "[x]2[ey]");
  EXPECT_EQ(split(set, "abcbcde"), "1[c]3");
  EXPECT_EQ(split(set, ""), "");
  EXPECT_EQ(split({}, "abc"), "[abc]");
}

TEST(AddedTokens, UnparsedSpecialTokensStillTakeTheirPlace) {
  AddedTokenSet set;
  set.add({.content = "<end>", .id = 1, .special = true});
  set.add({.content = "end", .id = 2});
  EXPECT_EQ(split(set, "a<end>end"), "[a]12");
  EXPECT_EQ(split(set, "a<end>end", /*parse_special=*/false), "[a<end>]2");
}

TEST(AddedTokens, Flags) {
  AddedTokenSet set;
  set.add({.content = "L", .id = 1, .lstrip = true});
  set.add({.content = "R", .id = 2, .rstrip = true});
  set.add({.content = "word", .id = 3, .single_word = true});
  EXPECT_EQ(split(set, "a \xC2\xA0L b"), "[a]1[ b]");
  EXPECT_EQ(split(set, "aR \n b"), "[a]2[b]");
  EXPECT_EQ(split(set, "R L"), "21");
  EXPECT_EQ(split(set, "word words -word-"), "3[ words -]3[-]");
  EXPECT_EQ(split(set, "\xC3\xA9word \xE2\x82\xACword"), "[\xC3\xA9word \xE2\x82\xAC]3");
}

}  // namespace
}  // namespace winnow
