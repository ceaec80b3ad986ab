#include "train/retrieval_examples.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "eval/essay_prompt.h"
#include "eval/haystack.h"

namespace winnow {
namespace {

constexpr std::int64_t kAnswerTokens = 40;  // room for prefix and answer
constexpr std::int64_t kMostFacts = 4;

struct Fact {
  std::string sentence, question, answer_prefix, answer;
};

constexpr std::array<const char*, 12> kNames{"Marta", "Oliver", "Ines",  "Tobias", "Wanda", "Hugo",
                                             "Selma", "Victor", "Amira", "Jonas",  "Clara", "Rashid"};
constexpr std::array<const char*, 10> kPlaces{"harbour", "museum",  "library", "station",     "bakery",
                                              "garden",  "theatre", "market",  "observatory", "mill"};

std::string a_name(TextRandom& random) {
  return kNames[static_cast<std::size_t>(random.below(kNames.size()))];
}
std::string a_place(TextRandom& random) {
  return kPlaces[static_cast<std::size_t>(random.below(kPlaces.size()))];
}

Fact pass_key(TextRandom& random) {
  const std::string key = random.digits(4 + static_cast<int>(random.below(4)));
  return {fmt::format("The pass key is {}. Remember it.", key), "What is the pass key?", " The pass key is",
          " " + key};
}

Fact access_code(TextRandom& random) {
  const std::string what = random.key(), code = random.digits(5);
  return {fmt::format("Whoever wants to open the {} has to enter {}.", what, code),
          fmt::format("Which number opens the {}?", what),
          fmt::format(" The number that opens the {} is", what), " " + code};
}

Fact owner(TextRandom& random) {
  const std::string name = a_name(random), place = a_place(random), count = random.digits(3);
  return {fmt::format("{} keeps {} marbles in the {}.", name, count, place),
          fmt::format("How many marbles does {} keep in the {}?", name, place),
          fmt::format(" In the {}, {} keeps", place, name), fmt::format(" {} marbles", count)};
}

Fact meeting(TextRandom& random) {
  const std::string name = a_name(random), place = a_place(random), word = random.key();
  return {fmt::format("When {} arrives at the {}, the watchword will be {}.", name, place, word),
          fmt::format("What will be the watchword when {} arrives at the {}?", name, place),
          " The watchword will be", " " + word};
}

Fact entry(TextRandom& random) {
  const std::string key = random.letters(5, 'A'), value = random.digits(6);
  return {fmt::format("{} = {};", key, value), fmt::format("Which value does {} have?", key),
          fmt::format(" {} =", key), " " + value};
}

Fact make_fact(TextRandom& random, std::int64_t kind) {
  switch (kind) {
    case 0: return pass_key(random);
    case 1: return access_code(random);
    case 2: return owner(random);
    case 3: return meeting(random);
    default: return entry(random);
  }
}

constexpr std::int64_t kFactKinds = 5;

// A sentence of the text itself: its beginning is quoted, its end is the answer.
Fact quotation(TextRandom& random, const std::vector<std::string>& sentences) {
  for (int attempt = 0; attempt < 20; ++attempt) {
    const std::string& sentence = sentences[static_cast<std::size_t>(random.below(std::ssize(sentences)))];
    const std::int64_t spaces = std::count(sentence.begin(), sentence.end(), ' ');
    if (spaces < 12 || spaces > 60) continue;
    std::size_t middle = 0;
    for (int i = 0; i < 7; ++i) middle = sentence.find(' ', middle + 1);
    std::size_t end = middle;
    for (int i = 0; i < 5; ++i) end = std::min(sentence.find(' ', end + 1), sentence.size());
    const std::string begin = sentence.substr(0, middle);
    return {"", fmt::format("How does the sentence of the text go on that begins with \"{}\"?", begin),
            " " + begin, sentence.substr(middle, end - middle)};
  }
  return make_fact(random, 0);
}

PromptText ask(const Fact& fact, std::int64_t wording, bool chat, const std::string& context) {
  PromptText prompt;
  prompt.answer_prefix = fact.answer_prefix;
  prompt.chat = chat;
  switch (wording) {
    case 0: prompt.user = fmt::format("Read this text.\n\n{}\n\n{}", context, fact.question); break;
    case 1: prompt.user = fmt::format("{}\n\nQuestion: {}\nAnswer:", context, fact.question); break;
    default:
      prompt.user = fmt::format("{}\nSomebody asks about what was written above: {}", context, fact.question);
      break;
  }
  return prompt;
}

}  // namespace

std::optional<TrainingWindow> make_retrieval_window(TextRandom& random, const EvalText& text,
                                                    const PromptEncoder& encoder, std::int64_t tokens) {
  const Essays essays(std::span(&text, 1));
  EssayPrompt parts;
  parts.start = random.below(essays.words());
  Fact asked;
  if (random.below(kFactKinds + 1) == kFactKinds) {
    asked = quotation(random, essays.sentences(parts.start, tokens / 4));
  } else {
    const std::int64_t kind = random.below(kFactKinds), facts = kind == 0 ? 1 : 1 + random.below(kMostFacts);
    for (std::int64_t i = 0; i < facts; ++i) {
      asked = make_fact(random, kind);
      parts.needles.push_back(asked.sentence);
    }
    random.shuffle(parts.needles);
  }
  for (std::size_t i = 0; i < parts.needles.size(); ++i) parts.depths.push_back(random.share() * 99);
  std::sort(parts.depths.begin(), parts.depths.end());
  const std::int64_t wording = random.below(3);
  parts.prompt_of = [&](const std::string& context) { return ask(asked, wording, encoder.chat(), context); };
  const std::int64_t budget = tokens - kAnswerTokens;
  if (encoder.count(parts.prompt_of(hide_in_sentences({}, parts.needles, parts.depths))) > budget)
    return std::nullopt;
  const PromptText prompt = longest_prompt(parts, encoder, essays, budget, "a retrieval example");
  TrainingWindow window;
  window.retrieval = true;
  window.tokens = encoder.first_turn(prompt);
  window.context = std::ssize(window.tokens);
  const std::vector<TokenId> answer = encoder.text_tokens(asked.answer);
  window.tokens.insert(window.tokens.end(), answer.begin(), answer.end());
  return window;
}

}  // namespace winnow
