#include "train/training_data.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "eval/text_random.h"
#include "train/retrieval_examples.h"

namespace winnow {
namespace {

constexpr std::int64_t kLeastContext = 128;

std::string document_of(const nlohmann::json& line, const std::string& where) {
  if (!line.is_object()) fail(ErrorCode::kBadFormat, "{}: not a JSON object", where);
  std::string document;
  bool found = false;
  for (const char* key : {"text", "instruction", "context", "response"}) {
    if (!line.contains(key)) continue;
    if (!line[key].is_string()) fail(ErrorCode::kBadFormat, "{}: {} is no text", where, key);
    found = true;
    const auto part = line[key].get<std::string>();
    if (part.empty()) continue;
    document += (document.empty() ? "" : "\n") + part;
    if (key == std::string_view("text")) break;
  }
  if (!found) fail(ErrorCode::kBadFormat, "{}: neither text nor instruction, context and response", where);
  return document;
}

std::string documents_of(const std::string& name, const std::string& bytes) {
  std::string all;
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string line = bytes.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("{}:{}", name, number);
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) fail(ErrorCode::kBadFormat, "{}: not JSON", where);
    all += (all.empty() ? "" : "\n\n") + document_of(json, where);
  }
  return all;
}

// The text before and after its place nine tenths in, cut at a line's or word's end.
std::pair<EvalText, EvalText> split(const EvalText& text) {
  const std::size_t place = text.content.size() * 9 / 10;
  std::size_t cut = text.content.find('\n', place);
  if (cut == std::string::npos || cut > place + text.content.size() / 20) cut = text.content.find(' ', place);
  if (cut == std::string::npos) cut = text.content.size();
  return {{text.name, text.content.substr(0, cut)}, {text.name, text.content.substr(cut)}};
}

}  // namespace

EvalText parse_training_text(const std::string& name, const std::string& bytes) {
  EvalText text{name, name.ends_with(".jsonl") ? documents_of(name, bytes) : bytes};
  if (text.content.find_first_not_of(" \t\r\n") == std::string::npos)
    fail(ErrorCode::kBadArgument, "{}: no text in it", name);
  return text;
}

TrainingWindows::TrainingWindows(const Engine& engine, std::vector<EvalText> texts,
                                 const WindowSettings& settings)
    : engine_(engine),
      settings_(settings),
      plain_(engine.tokenizer(), true),
      chat_(engine.tokenizer(), false),
      identity_(texts_json(texts)) {
  check_settings();
  std::int64_t longest = 0;
  for (const EvalText& text : texts) {
    const auto [first, last] = split(text);
    add_text(training_, first);
    add_text(validation_, last);
    longest = std::max(longest, plain_.count({.user = first.content, .chat = false}));
  }
  if (training_.tokens.empty()) {
    fail(ErrorCode::kBadArgument,
         "no usable window in the data: the longest text gives {} tokens to train on, a window takes {}",
         longest, settings.tokens);
  }
  if (validation_.tokens.empty())
    validation_ = training_;  // short texts: the windows differ, the text does not
}

void TrainingWindows::check_settings() const {
  const std::int64_t least = 2 * (settings_.future + kLeastContext);
  if (settings_.tokens >= least && settings_.tokens <= engine_.arch().context) return;
  fail(ErrorCode::kBadArgument, "windows of {} tokens: at least {} are needed, and {} is the model's context",
       settings_.tokens, least, engine_.arch().context);
}

TrainingWindows TrainingWindows::shortened(std::int64_t tokens) const {
  if (tokens > settings_.tokens) {
    fail(ErrorCode::kBadArgument,
         "windows of {} tokens for the end-to-end training: no more than the {} of the others", tokens,
         settings_.tokens);
  }
  TrainingWindows result = *this;
  result.settings_.tokens = tokens;
  result.check_settings();
  return result;
}

void TrainingWindows::add_text(Part& part, const EvalText& text) const {
  std::vector<TokenId> tokens = plain_.text_tokens(text.content);
  if (std::ssize(tokens) < settings_.tokens) return;
  part.tokens.push_back(std::move(tokens));
  part.texts.push_back(text);
}

TrainingWindow TrainingWindows::make(const Part& part, const char* stream, std::int64_t index) const {
  TextRandom random(settings_.seed, stream, settings_.tokens, index);
  const std::int64_t tokens = settings_.tokens / 2 + random.below(settings_.tokens / 2 + 1);
  const auto text = static_cast<std::size_t>(random.below(std::ssize(part.tokens)));
  if (random.share() < settings_.retrieval) {
    const bool chat = random.share() < 0.5;
    auto window = make_retrieval_window(random, part.texts[text], chat ? chat_ : plain_, tokens);
    if (window) return *std::move(window);
  }
  TrainingWindow window;
  window.tokens = plain_.begin();
  const std::vector<TokenId>& source = part.tokens[text];
  const std::int64_t count = tokens - std::ssize(window.tokens),
                     first = random.below(std::ssize(source) - count + 1);
  window.tokens.insert(window.tokens.end(), source.begin() + first, source.begin() + first + count);
  window.context = tokens - settings_.future;
  return window;
}

}  // namespace winnow
