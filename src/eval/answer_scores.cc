#include "eval/answer_scores.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <span>

namespace winnow {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

// ASCII only: other scripts have no case in the texts this is for, or would need full Unicode folding.
std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < text.size();) {
    if (is_space(text[begin])) {
      ++begin;
      continue;
    }
    std::size_t end = begin;
    while (end < text.size() && !is_space(text[end])) ++end;
    words.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

std::vector<std::string> numbers_in(std::string_view text) {
  std::vector<std::string> numbers;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    while (end < text.size() && is_digit(text[end])) ++end;
    if (end > begin) numbers.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return numbers;
}

// Length of the longest common subsequence, one row of the table at a time.
template <class T>
std::int64_t longest_common_subsequence(std::span<const T> a, std::span<const T> b) {
  std::vector<std::int64_t> row(b.size() + 1, 0);
  for (const T& x : a) {
    std::int64_t diagonal = 0;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::int64_t above = row[j + 1];
      row[j + 1] = x == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

// 2 common / (a + b): the harmonic mean of common / a and common / b.
double f1(std::int64_t common, std::size_t a, std::size_t b) {
  return common == 0 ? 0 : 2.0 * static_cast<double>(common) / static_cast<double>(a + b);
}

// LongBench's choice among the lines of generated code.
std::string_view first_code_line(std::string_view answer) {
  answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
  while (true) {
    const std::size_t end = answer.find('\n');
    const std::string_view line = answer.substr(0, end);
    if (line.find_first_of("`#") == line.npos && line.find("//") == line.npos) return line;
    if (end == answer.npos) return "";
    answer.remove_prefix(end + 1);
  }
}

}  // namespace

double found_share(std::string_view answer, const std::vector<std::string>& references) {
  const std::string text = lower(answer);
  const auto found = std::count_if(references.begin(), references.end(), [&](const std::string& reference) {
    return text.find(lower(reference)) != text.npos;
  });
  return references.empty() ? 0 : static_cast<double>(found) / static_cast<double>(references.size());
}

double first_number_is(std::string_view answer, std::string_view number) {
  const std::vector<std::string> numbers = numbers_in(answer);
  return !numbers.empty() && numbers.front() == number ? 1 : 0;
}

std::string normalized_answer(std::string_view text) {
  std::string bare = lower(text);
  std::erase_if(bare, is_punctuation);
  std::string result;
  for (const std::string& word : split_words(bare)) {
    if (word == "a" || word == "an" || word == "the") continue;
    result += result.empty() ? word : " " + word;
  }
  return result;
}

double word_f1(std::string_view answer, std::string_view reference) {
  const std::vector<std::string> a = split_words(normalized_answer(answer)),
                                 b = split_words(normalized_answer(reference));
  std::map<std::string_view, std::int64_t> left;
  for (const std::string& word : b) ++left[word];
  std::int64_t common = 0;
  for (const std::string& word : a) {
    const auto found = left.find(word);
    if (found == left.end() || found->second == 0) continue;
    --found->second;
    ++common;
  }
  return f1(common, a.size(), b.size());
}

double rouge_l(std::string_view answer, std::string_view reference) {
  const std::vector<std::string> a = split_words(answer), b = split_words(reference);
  return f1(longest_common_subsequence(std::span(a), std::span(b)), a.size(), b.size());
}

double class_score(std::string_view answer, std::string_view reference,
                   const std::vector<std::string>& classes) {
  std::int64_t named = 0;
  bool right = false;
  for (const std::string& name : classes) {
    if (answer.find(name) == answer.npos) continue;
    if (name != reference && reference.find(name) != reference.npos) continue;
    ++named;
    right = right || name == reference;
  }
  return right ? 1.0 / static_cast<double>(named) : 0;
}

double number_share(std::string_view answer, std::string_view number) {
  const std::vector<std::string> numbers = numbers_in(answer);
  const auto right = std::count(numbers.begin(), numbers.end(), number);
  return numbers.empty() ? 0 : static_cast<double>(right) / static_cast<double>(numbers.size());
}

std::string paragraph_number(std::string_view reference) {
  constexpr std::string_view kBefore = "Paragraph ";
  for (std::size_t at = reference.find(kBefore); at != reference.npos; at = reference.find(kBefore, at + 1)) {
    const std::string_view rest = reference.substr(at + kBefore.size());
    if (!rest.empty() && is_digit(rest.front())) return numbers_in(rest).front();
  }
  return "";
}

double code_similarity(std::string_view answer, std::string_view reference) {
  const std::string_view line = first_code_line(answer);
  const std::int64_t common = longest_common_subsequence(std::span(line), std::span(reference));
  return std::round(100 * f1(common, line.size(), reference.size())) / 100;
}

}  // namespace winnow
