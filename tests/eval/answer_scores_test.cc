// Hand-computed values of every metric.
#include "eval/answer_scores.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

TEST(FoundShare, CountsReferencesInAnyCase) {
  EXPECT_EQ(found_share("They are ABCDE and fghij.", {"abcde", "FGHIJ", "KLMNO", "PQRST"}), 0.5);
  EXPECT_EQ(found_share("1234567", {"1234567"}), 1.0);
  EXPECT_EQ(found_share("123456", {"1234567"}), 0.0);
  EXPECT_EQ(found_share("", {"a"}), 0.0);
}

TEST(FirstNumber, MustBeTheWholeNumberAndTheFirst) {
  EXPECT_EQ(first_number_is(" 48213.", "48213"), 1);
  EXPECT_EQ(first_number_is("It is 48213, not 11111", "48213"), 1);
  EXPECT_EQ(first_number_is("11111 or 48213", "48213"), 0);
  EXPECT_EQ(first_number_is("482130", "48213"), 0);
  EXPECT_EQ(first_number_is("none", "48213"), 0);
}

TEST(WordF1, NormalisesAsPublished) {
  EXPECT_EQ(normalized_answer(" The  U.S.A., an 'Answer'! "), "usa answer");
  // 2 of 3 answer words are among 4 reference words: 2 x 2 / (3 + 4).
  EXPECT_DOUBLE_EQ(word_f1("the red big house", "A house, red; on hill"), 4.0 / 7.0);
  // A word counts as often as both have it.
  EXPECT_DOUBLE_EQ(word_f1("no no no", "no yes"), 2.0 / 5.0);
  EXPECT_EQ(word_f1("", "x"), 0);
  EXPECT_EQ(word_f1("x", "y"), 0);
}

TEST(RougeL, LongestCommonSubsequenceOfWords) {
  // "police the gunman" of "police kill the gunman" (4) and "police killed the gunman" (4): 3 in common.
  EXPECT_DOUBLE_EQ(rouge_l("police kill the gunman", "police killed the gunman"), 0.75);
  // Order matters: "the gunman" only (Lin 2004, section 3.1).
  EXPECT_DOUBLE_EQ(rouge_l("the gunman kill police", "police killed the gunman"), 0.5);
  EXPECT_DOUBLE_EQ(rouge_l("a b", "a x y b z z"), 4.0 / 8.0);
  EXPECT_EQ(rouge_l("", "a"), 0);
}

TEST(ClassScore, SharedAmongTheClassesNamed) {
  const std::vector<std::string> classes{"Date", "City", "Other location", "location"};
  EXPECT_EQ(class_score("Type: Date", "Date", classes), 1.0);
  EXPECT_EQ(class_score("Date or City", "Date", classes), 0.5);
  EXPECT_EQ(class_score("City", "Date", classes), 0.0);
  // "location" is a part of the reference's name and does not count against it.
  EXPECT_EQ(class_score("Other location", "Other location", classes), 1.0);
}

TEST(NumberShare, OfAllNumbersInTheAnswer) {
  EXPECT_EQ(number_share("Paragraph 7", "7"), 1.0);
  EXPECT_EQ(number_share("7 or 17 or 7 or 8", "7"), 0.5);
  EXPECT_EQ(number_share("none", "7"), 0.0);
  EXPECT_EQ(paragraph_number("Paragraph 12"), "12");
  EXPECT_EQ(paragraph_number("paragraph 12"), "");
}

TEST(CodeSimilarity, OfTheFirstLineThatIsCode) {
  EXPECT_EQ(code_similarity("return x;", "return x;"), 1.0);
  // "return x;" and "return y;": 8 of 9 bytes in common, 16 / 18 = .888..., rounded to percents.
  EXPECT_EQ(code_similarity("return x;\nreturn y;", "return y;"), 0.89);
  EXPECT_EQ(code_similarity("\n```python\n# a comment\n// another\nreturn y;\n", "return y;"), 1.0);
  EXPECT_EQ(code_similarity("# only a comment", "return y;"), 0.0);
}

}  // namespace
}  // namespace winnow
