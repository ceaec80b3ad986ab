// Generated questions: the needle lies where it should, the prompt fits, the same seed gives the same
// question.
#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <sstream>

#include "core/error.h"
#include "eval/evaluation.h"
#include "eval/fit_length.h"
#include "eval/haystack.h"
#include "eval/niah_tasks.h"
#include "eval/question_workload.h"
#include "eval/ruler_list_tasks.h"
#include "eval/text_random.h"
#include "eval/words.h"
#include "support/eval_testing.h"

namespace winnow {
namespace {

using eval_test::some_text;
using eval_test::tiny_engine;

// Tasks need a tokenizer and no model: lengths beyond the tiny model's context are fine here.
class Tasks : public testing::Test {
 protected:
  std::vector<std::unique_ptr<Task>> all() const {
    std::vector<std::unique_ptr<Task>> tasks;
    for (const RulerNiah& settings : ruler_niah_tasks())
      tasks.push_back(make_ruler_niah(settings, encoder_, essays_));
    tasks.push_back(make_niah(encoder_, essays_));
    tasks.push_back(make_niah_paraphrase(encoder_, essays_));
    tasks.push_back(make_second_question(encoder_, essays_));
    tasks.push_back(make_ruler_vt(encoder_));
    tasks.push_back(make_ruler_cwe(encoder_));
    tasks.push_back(make_ruler_fwe(encoder_));
    return tasks;
  }

  std::vector<EvalText> texts_{some_text(3000)};
  PromptEncoder encoder_{tiny_engine().tokenizer(), /*plain=*/false};
  Essays essays_{texts_};
};

constexpr std::int64_t kLength = 2500;  // tokens of the tiny vocabulary: about two bytes each

TEST_F(Tasks, FitTheLengthAndNearlyFillIt) {
  for (const auto& task : all()) {
    const Question question = task->make(kLength, 3, 1);
    const std::int64_t tokens = encoder_.count(question.prompt);
    std::int64_t budget = kLength - question.max_new_tokens;
    if (question.follow_up) {
      budget -= question.max_new_tokens + std::ssize(encoder_.later_turn(*question.follow_up));
    }
    EXPECT_LE(tokens, budget) << task->name();
    // Our own tasks take 3550 / 4096 of the length; a unit of a haystack is at most an assignment's five
    // lines.
    EXPECT_GE(tokens, budget * 8 / 10) << task->name();
  }
}

TEST_F(Tasks, DependOnLengthIndexAndSeedAlone) {
  for (const auto& task : all()) {
    const Question one = task->make(kLength, 3, 1), again = task->make(kLength, 3, 1);
    EXPECT_EQ(one.prompt.user, again.prompt.user) << task->name();
    EXPECT_EQ(one.references, again.references) << task->name();
    EXPECT_NE(one.references, task->make(kLength, 4, 1).references) << task->name();
    EXPECT_NE(one.references, task->make(kLength, 3, 2).references) << task->name();
  }
}

TEST_F(Tasks, ReferencesAreInTheTextAndNotInTheQuestion) {
  for (const auto& task : all()) {
    const Question question = task->make(kLength, 5, 1);
    const PromptText& asked = question.follow_up ? *question.follow_up : question.prompt;
    const std::string user = question.prompt.user;
    const std::string tail = question.follow_up ? asked.user : user.substr(user.rfind('\n'));
    for (const std::string& reference : question.references) {
      EXPECT_NE(user.find(reference), std::string::npos) << task->name() << " " << reference;
      EXPECT_EQ((tail + asked.answer_prefix).find(reference), std::string::npos)
          << task->name() << " " << reference;
    }
    EXPECT_EQ(task->score(
                  question, "they are " +
                                [&] {
                                  std::string text;
                                  for (const std::string& reference : question.references)
                                    text += reference + ", ";
                                  return text;
                                }()),
              1.0)
        << task->name();
    EXPECT_EQ(task->score(question, "I do not know."), 0.0) << task->name();
  }
}

TEST_F(Tasks, NeedleLiesAtItsDepth) {
  const auto niah = make_niah(encoder_, essays_);
  for (std::int64_t index = 0; index < 10; ++index) {
    const Question question = niah->make(kLength, index, 1);
    const std::string& user = question.prompt.user;
    const std::size_t begin = user.find("afterwards.\n") + 12, end = user.rfind("\nWhat is");
    const std::size_t at = user.find("One of the special magic numbers for");
    ASSERT_NE(at, std::string::npos);
    const double depth = 100.0 * static_cast<double>(at - begin) / static_cast<double>(end - begin);
    EXPECT_NEAR(depth, 5 + 10 * static_cast<double>(index), 3) << index;  // a sentence is 2% of the text
    EXPECT_EQ(question.references.front().size(), 5u);
  }
}

TEST_F(Tasks, RulersWording) {
  const auto tasks = ruler_niah_tasks();
  const auto single = make_ruler_niah(tasks[0], encoder_, essays_)->make(kLength, 0, 1);
  const std::string& user = single.prompt.user;
  EXPECT_TRUE(user.starts_with(
      "A special magic number is hidden within the following text. Make sure to memorize it. "
      "I will quiz you about the number afterwards.\nThe grass is green. The sky is blue."))
      << user.substr(0, 200);
  EXPECT_NE(user.find("\nOne of the special magic numbers for "), std::string::npos);
  EXPECT_TRUE(user.ends_with(" mentioned in the provided text?"));
  EXPECT_TRUE(single.prompt.answer_prefix.starts_with(" The special magic number for "));
  EXPECT_TRUE(single.prompt.answer_prefix.ends_with(" mentioned in the provided text is"));
  EXPECT_EQ(single.references.front().size(), 7u);
  const auto several = make_ruler_niah(tasks[7], encoder_, essays_)->make(kLength, 0, 1);
  EXPECT_EQ(several.references.size(), 4u);
  EXPECT_TRUE(several.prompt.user.starts_with("Some special magic numbers are hidden"))
      << several.prompt.user;
  EXPECT_NE(several.prompt.user.find("\nWhat are all the special magic numbers for "), std::string::npos);
  EXPECT_NE(several.prompt.answer_prefix.find(", and "), std::string::npos);
  const auto values = make_ruler_niah(tasks[6], encoder_, essays_)->make(kLength, 0, 1);
  EXPECT_EQ(values.references.size(), 4u);
  const auto uuids = make_ruler_niah(tasks[5], encoder_, essays_)->make(kLength, 0, 1);
  EXPECT_EQ(uuids.references.front().size(), 36u);
}

TEST_F(Tasks, KeyAskedForIsUnique) {
  const auto task = make_ruler_niah(ruler_niah_tasks()[4], encoder_, essays_);
  const Question question = task->make(kLength, 0, 1);
  const std::string& user = question.prompt.user;
  const std::size_t asked = user.rfind(" for ") + 5;
  const std::string key = user.substr(asked, user.find(" mentioned", asked) - asked);
  const std::string spoken = " for " + key + " is: ";
  const std::size_t first = user.find(spoken);
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(user.find(spoken, first + 1), std::string::npos);
  EXPECT_EQ(user.substr(first + spoken.size(), 7), question.references.front());
}

std::set<std::string> words_of(const std::string& text) {
  std::string letters = text;
  for (char& c : letters)
    c = std::isalpha(static_cast<unsigned char>(c)) ? static_cast<char>(std::tolower(c)) : ' ';
  std::istringstream stream(letters);
  std::set<std::string> words;
  for (std::string word; stream >> word;) words.insert(word);
  return words;
}

TEST_F(Tasks, ParaphrasesShareNoWord) {
  const auto task = make_niah_paraphrase(encoder_, essays_);
  for (std::int64_t index = 0; index < 6; ++index) {
    const Question question = task->make(kLength, index, 1);
    const std::string& user = question.prompt.user;
    const std::size_t number = user.find(question.references.front());
    ASSERT_NE(number, std::string::npos);
    const std::size_t begin = user.rfind(". ", number) + 2, end = user.find('.', number);
    const auto needle = words_of(user.substr(begin, end - begin));
    const auto asked = words_of(user.substr(user.rfind("\n\n")) + question.prompt.answer_prefix);
    EXPECT_GE(needle.size(), 4u);
    for (const std::string& word : needle) EXPECT_FALSE(asked.contains(word)) << word;
  }
}

TEST_F(Tasks, SecondQuestionAsksForTheOtherNeedle) {
  const auto task = make_second_question(encoder_, essays_);
  int other_first = 0;
  for (std::int64_t index = 0; index < 10; ++index) {
    const Question question = task->make(kLength, index, 1);
    ASSERT_TRUE(question.follow_up);
    const std::string& user = question.prompt.user;
    const std::string& again = question.follow_up->user;
    const std::size_t at = again.find(" for ") + 5;
    const std::string key = again.substr(at, again.find(" mentioned") - at);
    const std::size_t needle = user.find(" for " + key + " is: " + question.references.front());
    ASSERT_NE(needle, std::string::npos);
    EXPECT_EQ(user.substr(user.rfind('\n')).find(key), std::string::npos);  // the first asks for the other
    other_first += needle < user.size() / 2 ? 1 : 0;
  }
  EXPECT_EQ(other_first, 5);
}

TEST_F(Tasks, VariableChainIsComplete) {
  const Question question = make_ruler_vt(encoder_)->make(kLength, 0, 1);
  ASSERT_EQ(question.references.size(), 5u);
  const std::string& user = question.prompt.user;
  const std::string value = user.substr(user.rfind("the value ") + 10, 5);
  std::size_t at = user.find("VAR " + question.references[0] + " = " + value);
  for (std::size_t i = 1; i < 5; ++i) {
    ASSERT_NE(at, std::string::npos) << i;
    at = user.find("VAR " + question.references[i] + " = VAR " + question.references[i - 1], at);
  }
  EXPECT_NE(at, std::string::npos);
}

std::map<std::string, int> counts_of(const std::string& text) {
  std::istringstream stream(text);
  std::map<std::string, int> counts;
  for (std::string word; stream >> word;) ++counts[word];
  return counts;
}

TEST_F(Tasks, CommonWordsAreTheCommonest) {
  const Question question = make_ruler_cwe(encoder_)->make(kLength, 0, 1);
  ASSERT_EQ(question.references.size(), 10u);
  const std::string& user = question.prompt.user;
  const std::size_t begin = user.rfind("often.\n") + 7;
  const auto counts = counts_of(user.substr(begin, user.rfind("\nQuestion") - begin));
  for (const std::string& reference : question.references) EXPECT_EQ(counts.at(reference), 6) << reference;
  const auto others = std::count_if(counts.begin(), counts.end(), [&](const auto& one) {
    return !std::isdigit(static_cast<unsigned char>(one.first[0])) &&
           std::find(question.references.begin(), question.references.end(), one.first) ==
               question.references.end();
  });
  EXPECT_GT(others, 10);
}

TEST_F(Tasks, FrequentWordsAreRanksTwoToFour) {
  const Question question = make_ruler_fwe(encoder_)->make(kLength, 0, 1);
  ASSERT_EQ(question.references.size(), 3u);
  auto counts = counts_of(question.prompt.user.substr(0, question.prompt.user.rfind("\nQuestion")));
  const int third = counts.at(question.references[2]);
  EXPECT_GT(counts.at("..."), counts.at(question.references[0]));
  EXPECT_GT(counts.at(question.references[0]), counts.at(question.references[1]));
  EXPECT_GT(counts.at(question.references[1]), third);
  for (const std::string& word :
       {question.references[0], question.references[1], question.references[2], std::string("...")}) {
    counts.erase(word);
  }
  for (const auto& [word, count] : counts) {
    if (word.size() == 6 && word.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == std::string::npos) {
      EXPECT_LT(count, third) << word;
    }
  }
}

TEST_F(Tasks, TooShortIsAnErrorThatSaysSo) {
  for (const auto& task : all()) {
    EXPECT_THROW(task->check_length(60), Error) << task->name();
    EXPECT_NO_THROW(task->check_length(kLength)) << task->name();
  }
  const std::vector<EvalText> one{some_text(3)};
  const Essays few(one);
  try {
    make_niah(encoder_, few)->check_length(kLength);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("some.txt"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("2500 needed"), std::string::npos) << error.what();
  }
}

TEST(Haystack, PlacesByHand) {
  const std::vector<std::string> four{"a.", "b.", "c.", "d."};
  EXPECT_EQ(hide_in_sentences(four, {"N"}, {0}), "N a. b. c. d.");
  EXPECT_EQ(hide_in_sentences(four, {"N"}, {50}), "a. b. N c. d.");
  EXPECT_EQ(hide_in_sentences(four, {"N"}, {100}), "a. b. c. d. N");
  EXPECT_EQ(hide_in_sentences(four, {"M", "N"}, {50, 50}), "a. b. M N c. d.");
  EXPECT_EQ(hide_in_sentences({}, {"N"}, {50}), "N");
  EXPECT_EQ(hide_in_lines(four, {"N"}, {0.99}), "a.\nb.\nc.\nN\nd.");
}

TEST(FitLength, FindsTheLargest) {
  for (std::int64_t limit = 0; limit < 70; ++limit) {
    const auto fits = [&](std::int64_t n) { return n <= limit; };
    EXPECT_EQ(largest_fitting(0, 1000, fits), limit);
    EXPECT_EQ(largest_fitting(3, 1000, fits), limit < 3 ? -1 : limit);
    EXPECT_EQ(largest_fitting(0, 20, fits), std::min<std::int64_t>(20, limit));
  }
}

TEST(TextRandom, Forms) {
  TextRandom random(1, "task", 10, 2);
  std::set<std::string> uuids;
  for (int i = 0; i < 100; ++i) {
    const std::string uuid = random.uuid();
    ASSERT_EQ(uuid.size(), 36u);
    EXPECT_EQ(uuid[14], '4');
    EXPECT_NE(std::string("89ab").find(uuid[19]), std::string::npos) << uuid;
    uuids.insert(uuid);
    const std::string digits = random.digits(5);
    EXPECT_EQ(digits.size(), 5u);
    EXPECT_NE(digits[0], '0');
    const auto sample = random.sample(10, 4);
    EXPECT_EQ(std::set<std::int64_t>(sample.begin(), sample.end()).size(), 4u);
    EXPECT_TRUE(std::is_sorted(sample.begin(), sample.end()));
  }
  EXPECT_EQ(uuids.size(), 100u);
}

TEST(Words, AreDistinct) {
  std::set<std::string> words;
  for (std::int64_t i = 0; i < word_count(); ++i) words.insert(word(i));
  EXPECT_EQ(std::ssize(words), word_count());
}

TEST(WithoutMiddle, KeepsTheEnds) {
  EXPECT_EQ(without_middle({1, 2, 3, 4, 5, 6, 7}, 4), (std::vector<TokenId>{1, 2, 6, 7}));
  EXPECT_EQ(without_middle({1, 2, 3}, 3), (std::vector<TokenId>{1, 2, 3}));
}

}  // namespace
}  // namespace winnow
