#include "eval/niah_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "eval/answer_scores.h"
#include "eval/essay_prompt.h"
#include "eval/fit_length.h"
#include "eval/haystack.h"
#include "eval/text_random.h"

namespace winnow {
namespace {

constexpr std::int64_t kRulerAnswerTokens = 128;
constexpr std::int64_t kRulerDepths = 40;  // np.round(np.linspace(0, 100, 40))
constexpr int kRulerDigits = 7;

const char* plural(NeedleText kind) {
  switch (kind) {
    case NeedleText::kWords: return "words";
    case NeedleText::kNumbers: return "numbers";
    case NeedleText::kUuids: return "uuids";
  }
  return "";
}

std::string draw(NeedleText kind, TextRandom& random) {
  switch (kind) {
    case NeedleText::kWords: return random.key();
    case NeedleText::kNumbers: return random.digits(kRulerDigits);
    case NeedleText::kUuids: return random.uuid();
  }
  return "";
}

// RULER's spelling: the plural, however many values there are.
std::string needle(NeedleText kind, const std::string& key, const std::string& value) {
  return fmt::format("One of the special magic {} for {} is: {}.", plural(kind), key, value);
}

// The template for one answer or several.
PromptText ask(NeedleText kind, const std::string& query, bool one_answer, const std::string& context) {
  std::string type = plural(kind);
  if (one_answer) type.pop_back();
  return {fmt::format(
              "{} special magic {} {} hidden within the following text. Make sure to memorize it. I will "
              "quiz you about the {} afterwards.\n{}\nWhat {} the special magic {} for {} mentioned in the "
              "provided text?",
              one_answer ? "A" : "Some", type, one_answer ? "is" : "are", type, context,
              one_answer ? "is" : "are all", type, query),
          fmt::format(" The special magic {} for {} mentioned in the provided text {}", type, query,
                      one_answer ? "is" : "are")};
}

// "a, b, and c", as RULER joins them.
std::string listed(const std::vector<std::string>& names) {
  std::string text = names.front();
  for (std::size_t i = 1; i < names.size(); ++i) text += (i + 1 == names.size() ? ", and " : ", ") + names[i];
  return text;
}

class RulerNiahTask final : public Task {
 public:
  RulerNiahTask(const RulerNiah& settings, const PromptEncoder& encoder, const Essays& essays)
      : Task(settings.name), settings_(settings), encoder_(encoder), essays_(essays) {}

  std::string metric() const override { return "string_match_all"; }

  void check_length(std::int64_t length) const override {
    if (settings_.haystack == HaystackKind::kEssay) check_essays(encoder_, essays_, length, name());
    make(length, 0, 0);
  }

  Question make(std::int64_t length, std::int64_t index, std::uint64_t seed) const override {
    TextRandom random(seed, name(), length, index);
    Draw draw = draw_needles(random);
    Question question;
    question.max_new_tokens = kRulerAnswerTokens;
    question.references = draw.answers;
    const std::int64_t budget = length - kRulerAnswerTokens;
    question.prompt = settings_.haystack == HaystackKind::kEssay ? in_essay(draw, random, budget)
                                                                 : in_lines(draw, random, budget);
    return question;
  }

  double score(const Question& question, const std::string& answer) const override {
    return found_share(answer, question.references);
  }

  nlohmann::json identity() const override {
    if (settings_.haystack != HaystackKind::kEssay) return name();
    return {name(), essays_.identity()};
  }

 private:
  struct Draw {
    std::vector<std::string> needles, answers;
    std::string query;
  };

  Draw draw_needles(TextRandom& random) const {
    Draw result;
    std::vector<std::string> keys;
    std::vector<std::vector<std::string>> values;
    while (static_cast<std::int64_t>(keys.size()) < settings_.key_count) {
      const std::string key = draw(settings_.keys, random);
      if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
      keys.push_back(key);
      values.emplace_back();
      for (std::int64_t v = 0; v < settings_.values_of_key; ++v) {
        values.back().push_back(draw(settings_.values, random));
        result.needles.push_back(needle(settings_.values, key, values.back().back()));
      }
    }
    random.shuffle(result.needles);
    std::vector<std::string> asked;
    for (const std::int64_t i : random.sample(settings_.key_count, settings_.queries)) {
      asked.push_back(keys[i]);
      result.answers.insert(result.answers.end(), values[i].begin(), values[i].end());
    }
    result.query = listed(asked);
    return result;
  }

  PromptText ask_for(const Draw& drawn, const std::string& context) const {
    return ask(settings_.values, drawn.query, settings_.queries * settings_.values_of_key == 1, context);
  }

  PromptText in_essay(const Draw& drawn, TextRandom& random, std::int64_t budget) const {
    EssayPrompt parts;
    parts.start = random.below(essays_.words());
    parts.needles = drawn.needles;
    for (const std::int64_t i :
         random.sample(kRulerDepths, static_cast<std::int64_t>(drawn.needles.size()))) {
      parts.depths.push_back(
          std::round(100 * static_cast<double>(i) / static_cast<double>(kRulerDepths - 1)));
    }
    parts.prompt_of = [&](const std::string& context) { return ask_for(drawn, context); };
    return longest_prompt(parts, encoder_, essays_, budget, name());
  }

  // Lines of noise, or of needles that nobody asks for.
  PromptText in_lines(const Draw& drawn, TextRandom& random, std::int64_t budget) const {
    std::vector<double> shares;
    for (std::size_t i = 0; i < drawn.needles.size(); ++i) shares.push_back(random.share());
    std::sort(shares.begin(), shares.end());
    std::vector<std::string>
        lines;  // made as they are needed, so that a smaller haystack is a part of a larger
    const auto prompt = [&](std::int64_t count) {
      while (static_cast<std::int64_t>(lines.size()) < count) lines.push_back(line(drawn, random));
      const std::vector<std::string> used(lines.begin(), lines.begin() + count);
      return ask_for(drawn, hide_in_lines(used, drawn.needles, shares));
    };
    const std::int64_t count =
        largest_fitting(1, budget, [&](std::int64_t n) { return encoder_.count(prompt(n)) <= budget; });
    if (count < 0) {
      fail(ErrorCode::kBadArgument, "{}: a length of {} tokens is too short for a question and {} of answer",
           name(), budget + kRulerAnswerTokens, kRulerAnswerTokens);
    }
    return prompt(count);
  }

  std::string line(const Draw& drawn, TextRandom& random) const {
    if (settings_.haystack == HaystackKind::kNoise) return std::string(kNoiseSentences);
    while (true) {  // a distractor with the key asked for would be a second answer
      const std::string key = draw(settings_.keys, random);
      const std::string value = draw(settings_.values, random);
      if (key != drawn.query) return needle(settings_.values, key, value);
    }
  }

  RulerNiah settings_;
  const PromptEncoder& encoder_;
  const Essays& essays_;
};

// ---- our own ----

constexpr int kOwnDigits = 5;
constexpr std::int64_t kOwnAnswerTokens = 16;
// Prompts of 3,550 tokens at 4,096, the size the figures of docs/policies.md were measured at.
std::int64_t own_prompt_tokens(std::int64_t length) { return length * 3550 / 4096; }
double own_depth(std::int64_t index) { return 5 + 10 * static_cast<double>(index % 10); }

class OwnNiahTask : public Task {
 public:
  OwnNiahTask(std::string name, const PromptEncoder& encoder, const Essays& essays)
      : Task(std::move(name)), encoder_(encoder), essays_(essays) {}

  std::string metric() const override { return "exact_match"; }
  void check_length(std::int64_t length) const override {
    check_essays(encoder_, essays_, length, name());
    make(length, 0, 0);
  }
  double score(const Question& question, const std::string& answer) const override {
    return first_number_is(answer, question.references.front());
  }
  nlohmann::json identity() const override { return {name(), essays_.identity()}; }

 protected:
  // `later`: tokens of the conversation after the prompt.
  PromptText fit(EssayPrompt parts, TextRandom& random, std::int64_t length, std::int64_t later) const {
    parts.start = random.below(essays_.words());
    const std::int64_t budget = std::min(own_prompt_tokens(length), length - later);
    return longest_prompt(parts, encoder_, essays_, budget, name());
  }

  const PromptEncoder& encoder_;

 private:
  const Essays& essays_;
};

class NiahTask final : public OwnNiahTask {
 public:
  NiahTask(const PromptEncoder& encoder, const Essays& essays) : OwnNiahTask("niah", encoder, essays) {}

  Question make(std::int64_t length, std::int64_t index, std::uint64_t seed) const override {
    TextRandom random(seed, name(), length, index);
    const std::string key = random.key(), value = random.digits(kOwnDigits);
    EssayPrompt parts;
    parts.needles = {needle(NeedleText::kNumbers, key, value)};
    parts.depths = {own_depth(index)};
    parts.prompt_of = [&](const std::string& context) {
      return ask(NeedleText::kNumbers, key, /*one_answer=*/true, context);
    };
    return {fit(parts, random, length, kOwnAnswerTokens), {value}, kOwnAnswerTokens, {}, false, 0};
  }
};

// What is said in the text, and the question for it: not one word in common, so that no rule which matches
// the question's words in the text finds the needle.
struct Paraphrase {
  const char* needle;  // {} is the number
  const char* question;
  const char* prefix;
};
constexpr std::array<Paraphrase, 6> kParaphrases{{
    {"My grandmother opens her safe with {}.", "Which digits unlock the old woman's strongbox?",
     " The digits are"},
    {"Captain Hale parks his lorry at bay {}.",
     "Where does the officer leave the truck? Give the space number.", " The space number is"},
    {"Nobody but Rosa dials {} to reach our physician.", "What telephone number calls the doctor?",
     " The telephone number is"},
    {"Every soldier must whisper {} before midnight.", "What is the secret code of the troops?",
     " The secret code is"},
    {"Our train left from track {} yesterday.", "Which railway platform did the passengers depart on?",
     " The platform was"},
    {"Uncle paid exactly {} coins for that stallion.", "How much money did the horse cost?",
     " The price of the horse was"},
}};

class ParaphraseTask final : public OwnNiahTask {
 public:
  ParaphraseTask(const PromptEncoder& encoder, const Essays& essays)
      : OwnNiahTask("niah_paraphrase", encoder, essays) {}

  Question make(std::int64_t length, std::int64_t index, std::uint64_t seed) const override {
    TextRandom random(seed, name(), length, index);
    const Paraphrase& words = kParaphrases[index % std::size(kParaphrases)];
    const std::string value = random.digits(kOwnDigits);
    EssayPrompt parts;
    parts.needles = {fmt::format(fmt::runtime(words.needle), value)};
    parts.depths = {own_depth(index)};
    parts.prompt_of = [&](const std::string& context) {
      return PromptText{context + "\n\n" + words.question, words.prefix};
    };
    return {fit(parts, random, length, kOwnAnswerTokens), {value}, kOwnAnswerTokens, {}, false, 0};
  }
};

class SecondQuestionTask final : public OwnNiahTask {
 public:
  SecondQuestionTask(const PromptEncoder& encoder, const Essays& essays)
      : OwnNiahTask("second_question", encoder, essays) {}

  Question make(std::int64_t length, std::int64_t index, std::uint64_t seed) const override {
    TextRandom random(seed, name(), length, index);
    const std::string first_key = random.key();
    std::string second_key = first_key;
    while (second_key == first_key) second_key = random.key();
    const std::string first = random.digits(kOwnDigits), second = random.digits(kOwnDigits);
    EssayPrompt parts;
    parts.needles = {needle(NeedleText::kNumbers, first_key, first),
                     needle(NeedleText::kNumbers, second_key, second)};
    // The two lie half the text apart, and each comes first half of the time.
    const double depth = own_depth(index), other = depth < 50 ? depth + 50 : depth - 50;
    parts.depths = {std::min(depth, other), std::max(depth, other)};
    if (depth > other) std::swap(parts.needles[0], parts.needles[1]);
    parts.prompt_of = [&](const std::string& context) {
      return ask(NeedleText::kNumbers, first_key, /*one_answer=*/true, context);
    };
    const PromptText follow_up{
        fmt::format("What is the special magic number for {} mentioned in the provided text?", second_key),
        fmt::format(" The special magic number for {} mentioned in the provided text is", second_key)};
    const std::int64_t later = 2 * kOwnAnswerTokens + std::ssize(encoder_.later_turn(follow_up));
    return {fit(parts, random, length, later), {second}, kOwnAnswerTokens, follow_up, false, 0};
  }
};

}  // namespace

std::vector<RulerNiah> ruler_niah_tasks() {
  using enum HaystackKind;
  using enum NeedleText;
  return {{"ruler_niah_single_1", kNoise, kWords, kNumbers, 1, 1, 1},
          {"ruler_niah_single_2", kEssay, kWords, kNumbers, 1, 1, 1},
          {"ruler_niah_single_3", kEssay, kWords, kUuids, 1, 1, 1},
          {"ruler_niah_multikey_1", kEssay, kWords, kNumbers, 4, 1, 1},
          {"ruler_niah_multikey_2", kNeedles, kWords, kNumbers, 1, 1, 1},
          {"ruler_niah_multikey_3", kNeedles, kUuids, kUuids, 1, 1, 1},
          {"ruler_niah_multivalue", kEssay, kWords, kNumbers, 1, 4, 1},
          {"ruler_niah_multiquery", kEssay, kWords, kNumbers, 4, 1, 4}};
}

std::unique_ptr<Task> make_ruler_niah(const RulerNiah& settings, const PromptEncoder& encoder,
                                      const Essays& essays) {
  return std::make_unique<RulerNiahTask>(settings, encoder, essays);
}

std::unique_ptr<Task> make_niah(const PromptEncoder& encoder, const Essays& essays) {
  return std::make_unique<NiahTask>(encoder, essays);
}

std::unique_ptr<Task> make_niah_paraphrase(const PromptEncoder& encoder, const Essays& essays) {
  return std::make_unique<ParaphraseTask>(encoder, essays);
}

std::unique_ptr<Task> make_second_question(const PromptEncoder& encoder, const Essays& essays) {
  return std::make_unique<SecondQuestionTask>(encoder, essays);
}

}  // namespace winnow
