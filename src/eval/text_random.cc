#include "eval/text_random.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "eval/words.h"

namespace winnow {
namespace {

std::uint64_t stream_seed(std::uint64_t seed, std::string_view task, std::int64_t length,
                          std::int64_t index) {
  const std::string text = fmt::format("{}/{}/{}/{}", seed, task, length, index);
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace

TextRandom::TextRandom(std::uint64_t seed, std::string_view task, std::int64_t length, std::int64_t index)
    : TextRandom(stream_seed(seed, task, length, index)) {}

std::string TextRandom::digits(int count) {
  std::string text(1, static_cast<char>('1' + below(9)));
  while (static_cast<int>(text.size()) < count) text += static_cast<char>('0' + below(10));
  return text;
}

std::string TextRandom::letters(int count, char first) {
  std::string text;
  for (int i = 0; i < count; ++i) text += static_cast<char>(first + below(26));
  return text;
}

std::string TextRandom::uuid() {
  const std::uint64_t high = (random_() & ~0xf000ULL) | 0x4000ULL;
  const std::uint64_t low = (random_() & ~(3ULL << 62)) | (2ULL << 62);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffff, high & 0xffff,
                     low >> 48, low & 0xffffffffffffULL);
}

std::string TextRandom::key() {
  const auto pick = [this](std::span<const std::string_view> words) {
    return words[static_cast<std::size_t>(below(static_cast<std::int64_t>(words.size())))];
  };
  const std::string_view adjective = pick(adjectives());
  return fmt::format("{}-{}", adjective, pick(nouns()));
}

std::vector<std::int64_t> TextRandom::sample(std::int64_t of, std::int64_t count) {
  check(count <= of, "sample: as many as there are, at most");
  std::vector<std::int64_t> all(static_cast<std::size_t>(of));
  std::iota(all.begin(), all.end(), 0);
  shuffle(all);
  all.resize(static_cast<std::size_t>(count));
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace winnow
