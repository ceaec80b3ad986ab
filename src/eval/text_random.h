// TextRandom: the random choices of a generated prompt. The same seed gives the same prompt on every machine,
// which the distributions of <random> do not promise.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace winnow {

class TextRandom {
 public:
  explicit TextRandom(std::uint64_t seed) : random_(seed) {}
  // One stream for each item of each task: items do not depend on how many were made before.
  TextRandom(std::uint64_t seed, std::string_view task, std::int64_t length, std::int64_t index);

  // 0..count - 1. The bias of the remainder is below 2^-40 for every count used here.
  std::int64_t below(std::int64_t count) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(count));
  }
  double share() { return static_cast<double>(random_() >> 11) * 0x1p-53; }  // [0, 1)

  std::string digits(int count);               // a number of so many digits, no leading zero
  std::string letters(int count, char first);  // `first` is 'a' or 'A'
  std::string uuid();                          // version 4, RFC 9562
  std::string key();                           // "adjective-noun"
  std::vector<std::int64_t> sample(std::int64_t of, std::int64_t count);  // distinct, ascending, of 0..of - 1

  template <class T>
  void shuffle(std::vector<T>& values) {  // Fisher-Yates
    for (std::int64_t i = static_cast<std::int64_t>(values.size()) - 1; i > 0; --i) {
      std::swap(values[i], values[below(i + 1)]);
    }
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace winnow
