#include "tokenizer/bpe.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace winnow {
namespace {

constexpr std::size_t kCacheWords = 16384;

}  // namespace

struct alignas(64) WordCache::Entry {
  std::uint8_t bytes = 0;  // 0: free
  std::uint8_t count;
  char word[30];
  TokenId ids[8];
};

WordCache::WordCache() : entries_(std::make_unique<Entry[]>(kCacheWords)) {}
WordCache::~WordCache() = default;

Bpe::Bpe(std::shared_ptr<const Vocabulary> vocabulary, std::span<const Merge> merges, BpeOptions options,
         const std::string& source)
    : rules_(merges),
      ignore_merges_(options.ignore_merges),
      alphabet_(make_alphabet(std::move(vocabulary), std::move(options), source)) {}

void Bpe::encode_uncached(std::string_view word, std::vector<TokenId>& ids) const {
  if (ignore_merges_) {
    if (const TokenId id = alphabet_->find_word(word); id >= 0) return ids.push_back(id);
  }
  const std::size_t begin = ids.size();
  alphabet_->append(word, ids);
  ids.resize(begin + rules_.merge({ids.data() + begin, ids.size() - begin}));
  alphabet_->finish(ids, begin);
}

void Bpe::encode(std::string_view word, WordCache& cache, std::vector<TokenId>& ids) const {
  WordCache::Entry* entry = nullptr;
  if (!word.empty() && word.size() <= sizeof(entry->word)) {
    entry = &cache.entries_[XXH3_64bits(word.data(), word.size()) % kCacheWords];
    if (entry->bytes == word.size() && std::memcmp(entry->word, word.data(), word.size()) == 0) {
      ids.insert(ids.end(), entry->ids, entry->ids + entry->count);
      return;
    }
  }
  const std::size_t begin = ids.size();
  encode_uncached(word, ids);
  const std::size_t count = ids.size() - begin;
  if (entry == nullptr || count > std::size(entry->ids)) return;
  entry->bytes = static_cast<std::uint8_t>(word.size());
  entry->count = static_cast<std::uint8_t>(count);
  std::memcpy(entry->word, word.data(), word.size());
  std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(begin), count, entry->ids);
}

}  // namespace winnow
