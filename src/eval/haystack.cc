#include "eval/haystack.h"

#include "core/check.h"

namespace winnow {
namespace {

std::string hide(const std::vector<std::string>& pieces, const std::vector<std::string>& needles,
                 const std::vector<double>& shares, char separator) {
  check(needles.size() == shares.size(), "haystack: a place for each needle");
  std::string text;
  const auto add = [&](const std::string& piece) {
    if (!text.empty()) text += separator;
    text += piece;
  };
  std::size_t next = 0;
  for (std::size_t i = 0; i <= pieces.size(); ++i) {
    // Of a share s the needle's place is floor(s n); rounding must not move 0.55 x 20 to 10.
    while (next < needles.size() &&
           static_cast<std::size_t>(shares[next] * static_cast<double>(pieces.size()) + 1e-9) <= i) {
      add(needles[next++]);
    }
    if (i < pieces.size()) add(pieces[i]);
  }
  check(next == needles.size(), "haystack: every needle has its place");
  return text;
}

}  // namespace

std::string hide_in_sentences(const std::vector<std::string>& sentences,
                              const std::vector<std::string>& needles, const std::vector<double>& depths) {
  std::vector<double> shares;
  for (const double depth : depths) shares.push_back(depth / 100);
  return hide(sentences, needles, shares, ' ');
}

std::string hide_in_lines(const std::vector<std::string>& lines, const std::vector<std::string>& needles,
                          const std::vector<double>& shares) {
  return hide(lines, needles, shares, '\n');
}

}  // namespace winnow
