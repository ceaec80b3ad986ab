#include "tokenizer/nfc.h"

#include "tokenizer/utf8.h"
#include "tokenizer_test_data.h"

namespace winnow {
namespace {

TEST(Nfc, IsThatOfTokenizers) {
  const auto golden = read_golden("nfc.json");
  for (const auto& row : golden["cases"]) {
    const std::string text = row["in"], expected = row["out"];
    EXPECT_EQ(nfc(text), expected) << text;
    EXPECT_EQ(nfc(expected), expected);
    if (!may_need_nfc(text)) {
      EXPECT_EQ(expected, text);
    }
  }
}

TEST(Nfc, ScanTellsPlainText) {
  EXPECT_FALSE(may_need_nfc(""));
  EXPECT_FALSE(may_need_nfc("plain, \xC3\xA9, \xE6\xBC\xA2\xE5\xAD\x97, \xF0\x9F\x98\x80"));
  EXPECT_TRUE(may_need_nfc("e\xCC\x81"));
  EXPECT_EQ(nfc(""), "");
}

// A million marks in the wrong order: sorted by insertion this would take hours.
TEST(Nfc, LongRunsOfMarks) {
  std::string text = "a", sorted = "\xE1\xBA\xA1";  // a with dot below
  const int count = 300000;
  for (int i = 0; i < count; ++i) text += "\xCC\x81\xCC\xA3";
  for (int i = 1; i < count; ++i) sorted += "\xCC\xA3";
  for (int i = 0; i < count; ++i) sorted += "\xCC\x81";
  EXPECT_EQ(nfc(text), sorted);
}

}  // namespace
}  // namespace winnow
