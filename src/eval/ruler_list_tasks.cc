#include "eval/ruler_list_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <set>

#include "core/error.h"
#include "eval/answer_scores.h"
#include "eval/fit_length.h"
#include "eval/haystack.h"
#include "eval/text_random.h"
#include "eval/words.h"

namespace winnow {
namespace {

// What the three have in common: a prompt that grows with a number of units, scored by what is found in it.
class RulerListTask : public Task {
 public:
  RulerListTask(std::string name, std::int64_t answer_tokens, const PromptEncoder& encoder)
      : Task(std::move(name)), answer_tokens_(answer_tokens), encoder_(encoder) {}

  std::string metric() const override { return "string_match_all"; }
  void check_length(std::int64_t length) const override { make(length, 0, 0); }
  double score(const Question& question, const std::string& answer) const override {
    return found_share(answer, question.references);
  }

 protected:
  Question fit(std::int64_t least, std::int64_t most, std::int64_t length,
               std::vector<std::string> references,
               const std::function<PromptText(std::int64_t)>& prompt_of) const {
    const std::int64_t budget = length - answer_tokens_;
    const std::int64_t units =
        largest_fitting(least, most, [&](std::int64_t n) { return encoder_.count(prompt_of(n)) <= budget; });
    if (units < 0) {
      fail(ErrorCode::kBadArgument, "{}: a length of {} tokens is too short: {} is the least", name(), length,
           encoder_.count(prompt_of(least)) + answer_tokens_);
    }
    return {prompt_of(units), std::move(references), answer_tokens_, {}, false, 0};
  }

  std::int64_t count(const std::string& text) const { return encoder_.count({text}); }

 private:
  std::int64_t answer_tokens_;
  const PromptEncoder& encoder_;
};

// One chain of assignments: VAR A = 12345, VAR B = VAR A, ...
struct Chain {
  std::vector<std::string> names, lines;
  std::string value;
};

constexpr std::int64_t kHops = 4;

Chain make_chain(TextRandom& random, int letters) {
  Chain chain;
  std::set<std::string> used;
  while (static_cast<std::int64_t>(chain.names.size()) <= kHops) {
    std::string name = random.letters(letters, 'A');
    if (used.insert(name).second) chain.names.push_back(std::move(name));
  }
  chain.value = random.digits(5);
  chain.lines.push_back(fmt::format("VAR {} = {}", chain.names[0], chain.value));
  for (std::size_t i = 1; i < chain.names.size(); ++i) {
    chain.lines.push_back(fmt::format("VAR {} = VAR {} ", chain.names[i], chain.names[i - 1]));
  }
  return chain;
}

class VariableTracking final : public RulerListTask {
 public:
  explicit VariableTracking(const PromptEncoder& encoder) : RulerListTask("ruler_vt", 30, encoder) {}

  Question make(std::int64_t length, std::int64_t index, std::uint64_t seed) const override {
    TextRandom random(seed, name(), length, index);
    const std::string example = make_example(random, length);
    const Chain chain = make_chain(random, 5);
    const std::vector<double> shares = make_shares(random);
    return fit(0, length, length, chain.names, [&](std::int64_t noises) {
      return PromptText{example + "\n\n" + text_of(chain, shares, noises), prefix_of(chain)};
    });
  }

 private:
  static std::vector<double> make_shares(TextRandom& random) {
    std::vector<double> shares;
    for (std::int64_t i = 0; i <= kHops; ++i) shares.push_back(random.share());
    std::sort(shares.begin(), shares.end());
    return shares;
  }

  static std::string text_of(const Chain& chain, const std::vector<double>& shares, std::int64_t noises) {
    const std::vector<std::string> noise(static_cast<std::size_t>(noises), std::string(kNoiseSentences));
    return fmt::format(
        "Memorize and track the chain(s) of variable assignment hidden in the following "
        "text.\n\n{}\nQuestion: Find "
        "all variables that are assigned the value {} in the text above.",
        hide_in_lines(noise, chain.lines, shares), chain.value);
  }

  static std::string prefix_of(const Chain& chain) {
    return fmt::format(
        " Answer: According to the chain(s) of variable assignment in the text above, {} variables are "
        "assigned the "
        "value {}, they are: ",
        kHops + 1, chain.value);
  }

  // The worked example before the question: 500 tokens or, for short prompts, an eighth, names of three
  // letters.
  std::string make_example(TextRandom& random, std::int64_t length) const {
    const Chain chain = make_chain(random, 3);
    const std::vector<double> shares = make_shares(random);
    const auto text = [&](std::int64_t noises) {
      return fmt::format("{}{} {}", text_of(chain, shares, noises), prefix_of(chain),
                         fmt::join(chain.names, " "));
    };
    const std::int64_t budget = std::min<std::int64_t>(500, length / 8);
    return text(std::max<std::int64_t>(
        0, largest_fitting(0, budget, [&](std::int64_t n) { return count(text(n)) <= budget; })));
  }
};

// Commonest words: 10 words 30 times among others 3 times (6 and once below 4,096 tokens).
class CommonWords final : public RulerListTask {
 public:
  explicit CommonWords(const PromptEncoder& encoder) : RulerListTask("ruler_cwe", 120, encoder) {}

  Question make(std::int64_t length, std::int64_t index, std::uint64_t seed) const override {
    TextRandom random(seed, name(), length, index);
    const bool small = length < 4096;
    // Compounds are for prompts that need more words than the lists have.
    std::vector<std::int64_t> order = random.sample(plain_words(), plain_words());
    random.shuffle(order);
    const List example = make_list(order, 0, small ? 20 : 40, small ? 3 : 10, small ? 1 : 3, random);
    const std::uint64_t shuffle_seed = static_cast<std::uint64_t>(random.below(std::int64_t{1} << 40));
    const auto list = [&](std::int64_t words) {
      TextRandom shuffle(shuffle_seed);
      return make_list(order, small ? 20 : 40, words, small ? 6 : 30, small ? 1 : 3, shuffle);
    };
    const std::string shot = ask(example.text) + std::string(kPrefix) + " " + numbered(example.common) + "\n";
    return fit(kCommon, word_count() - 40, length, list(kCommon).common, [&](std::int64_t words) {
      return PromptText{shot + ask(list(words).text), std::string(kPrefix)};
    });
  }

 private:
  static constexpr std::int64_t kCommon = 10;
  static constexpr std::string_view kPrefix =
      " Answer: The top 10 words that appear most often in the list are:";

  struct List {
    std::string text;
    std::vector<std::string> common;
  };

  static std::int64_t plain_words() {
    return static_cast<std::int64_t>(adjectives().size() + nouns().size());
  }

  static std::string numbered(const std::vector<std::string>& words) {
    std::string text;
    for (std::size_t i = 0; i < words.size(); ++i) {
      text += fmt::format("{}{}. {}", i == 0 ? "" : " ", i + 1, words[i]);
    }
    return text;
  }

  // `count` words from place `first` of the order on; behind its end the compounds follow.
  static List make_list(const std::vector<std::int64_t>& order, std::int64_t first, std::int64_t count,
                        std::int64_t common_times, std::int64_t other_times, TextRandom& random) {
    List list;
    std::vector<std::string> all;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t place = first + i;
      const std::string text = word(place < std::ssize(order) ? order[place] : place);
      if (i < kCommon) list.common.push_back(text);
      all.insert(all.end(), static_cast<std::size_t>(i < kCommon ? common_times : other_times), text);
    }
    random.shuffle(all);
    list.text = numbered(all);
    return list;
  }

  static std::string ask(const std::string& list) {
    return fmt::format(
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
        "ones that "
        "appear most often.\n{}\nQuestion: What are the 10 most common words in the above list?",
        list);
  }
};

// Coded words with frequencies of a zeta distribution; the most frequent one is the noise "...".
class FrequentWords final : public RulerListTask {
 public:
  explicit FrequentWords(const PromptEncoder& encoder) : RulerListTask("ruler_fwe", 50, encoder) {}

  Question make(std::int64_t length, std::int64_t index, std::uint64_t seed) const override {
    TextRandom random(seed, name(), length, index);
    const std::vector<std::string> vocabulary =
        make_vocabulary(random, std::max<std::int64_t>(4, length / 50));
    const std::uint64_t shuffle_seed = static_cast<std::uint64_t>(random.below(std::int64_t{1} << 40));
    return fit(
        kLeastWords, length, length, {vocabulary[1], vocabulary[2], vocabulary[3]}, [&](std::int64_t words) {
          return PromptText{ask(coded_text(vocabulary, words, shuffle_seed)),
                            " Answer: According to the coded text above, the three most frequently appeared "
                            "words are:"};
        });
  }

 private:
  // Fewer, and the third coded word would not appear more often than the fourth.
  static constexpr std::int64_t kLeastWords = 100;

  static std::vector<std::string> make_vocabulary(TextRandom& random, std::int64_t size) {
    std::set<std::string> used;
    std::vector<std::string> vocabulary{"..."};
    while (std::ssize(vocabulary) < size) {
      std::string coded = random.letters(6, 'a');
      if (used.insert(coded).second) vocabulary.push_back(std::move(coded));
    }
    return vocabulary;
  }

  static std::string coded_text(const std::vector<std::string>& vocabulary, std::int64_t words,
                                std::uint64_t shuffle_seed) {
    constexpr double kZeta2 = std::numbers::pi * std::numbers::pi / 6;  // alpha = 2
    std::vector<std::string> text;
    for (std::size_t rank = 1; rank <= vocabulary.size(); ++rank) {
      const double times = static_cast<double>(words) / (static_cast<double>(rank * rank) * kZeta2);
      text.insert(text.end(), static_cast<std::size_t>(times), vocabulary[rank - 1]);
    }
    TextRandom(shuffle_seed).shuffle(text);
    return fmt::format("{}", fmt::join(text, " "));
  }

  static std::string ask(const std::string& text) {
    return fmt::format(
        "Read the following coded text and track the frequency of each coded word. Find the three most "
        "frequently "
        "appeared coded words. {}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. "
        "What are "
        "the three most frequently appeared words in the above coded text?",
        text);
  }
};

}  // namespace

std::unique_ptr<Task> make_ruler_vt(const PromptEncoder& encoder) {
  return std::make_unique<VariableTracking>(encoder);
}
std::unique_ptr<Task> make_ruler_cwe(const PromptEncoder& encoder) {
  return std::make_unique<CommonWords>(encoder);
}
std::unique_ptr<Task> make_ruler_fwe(const PromptEncoder& encoder) {
  return std::make_unique<FrequentWords>(encoder);
}

}  // namespace winnow
