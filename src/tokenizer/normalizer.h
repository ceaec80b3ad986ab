// Normalizer: what a tokenizer does to text before it looks for words, as a list of steps.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace winnow {

// `text` with every `from`, which is not empty, replaced.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

class Normalizer {
 public:
  void add_nfc() { steps_.push_back({Kind::kNfc, "", ""}); }
  // `prefix` goes before every text that is not empty.
  void add_prepend(std::string prefix) { steps_.push_back({Kind::kPrepend, "", std::move(prefix)}); }
  // `from` is not empty.
  void add_replace(std::string from, std::string to) {
    steps_.push_back({Kind::kReplace, std::move(from), std::move(to)});
  }

  // Whether no normalised text can hold `text`.
  bool removes(std::string_view text) const;

  // `text`, valid UTF-8, normalised: a view of it where nothing changes, of `storage` otherwise.
  std::string_view apply(std::string_view text, std::string& storage) const;

 private:
  enum class Kind { kNfc, kPrepend, kReplace };
  struct Step {
    Kind kind;
    std::string from, to;
  };

  static bool changes(const Step& step, std::string_view text);
  static std::string run(const Step& step, std::string_view text);

  std::vector<Step> steps_;
};

}  // namespace winnow
