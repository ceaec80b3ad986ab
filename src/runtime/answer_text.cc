#include "runtime/answer_text.h"

#include <algorithm>
#include <utility>

namespace winnow {
namespace {

// Length of the longest end of `text` that `stop` begins with.
std::size_t overlap(const std::string& text, const std::string& stop) {
  for (std::size_t length = std::min(text.size(), stop.size()); length > 0; --length) {
    if (text.compare(text.size() - length, length, stop, 0, length) == 0) return length;
  }
  return 0;
}

}  // namespace

AnswerText::AnswerText(const Tokenizer& tokenizer, bool begins_text, std::vector<std::string> stop_strings)
    : stop_strings_(std::move(stop_strings)), stream_(tokenizer, begins_text) {
  std::erase(stop_strings_, std::string());
}

std::string AnswerText::push(TokenId token) {
  return stopped_ ? "" : release(stream_.push(token), /*last=*/false);
}

std::string AnswerText::finish() { return stopped_ ? "" : release(stream_.finish(), /*last=*/true); }

std::vector<std::string> token_texts(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::vector<std::string> texts;
  Utf8Stream stream;
  for (const TokenId id : ids) texts.push_back(stream.push(tokenizer.token_bytes(id)));
  if (!texts.empty()) texts.back() += stream.finish();
  return texts;
}

std::string AnswerText::release(const std::string& fresh, bool last) {
  held_ += fresh;
  std::size_t certain = held_.size(), keep = 0;
  for (const std::string& stop : stop_strings_) {
    const std::size_t found = held_.find(stop);
    if (found != std::string::npos) {
      certain = std::min(certain, found);
      stopped_ = true;
    }
    keep = std::max(keep, overlap(held_, stop));
  }
  if (!stopped_ && !last) certain -= keep;
  std::string out = held_.substr(0, certain);
  held_.erase(0, certain);
  text_ += out;
  return out;
}

}  // namespace winnow
