#include "tokenizer/byte_bpe.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <queue>

#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/byte_alphabet.h"

namespace winnow {
namespace {

constexpr std::uint64_t kFree = ~std::uint64_t{0};
constexpr std::uint32_t kNoRule = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kShortWord = 48;  // symbols up to which a scan beats the heap
constexpr std::size_t kCacheWords = 16384;

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

struct alignas(64) WordCache::Entry {
  std::uint8_t bytes = 0;  // 0: free
  std::uint8_t count;
  char word[30];
  TokenId ids[8];
};

WordCache::WordCache() : entries_(std::make_unique<Entry[]>(kCacheWords)) {}
WordCache::~WordCache() = default;

ByteBpe::ByteBpe(std::shared_ptr<const Vocabulary> vocabulary, std::span<const Merge> merges,
                 const BpeOptions& options, const std::string& source)
    : vocabulary_(std::move(vocabulary)), options_(options) {
  for (int byte = 0; byte < 256; ++byte) {
    const TokenId id = vocabulary_->find(alphabet_char(static_cast<unsigned char>(byte)));
    // Real vocabularies lack bytes that hardly occur (SmolLM2's lacks 21); one without plain text is no
    // byte-level BPE.
    if (id < 0 && ((byte >= 0x20 && byte < 0x7F) || byte == '\n')) {
      fail(ErrorCode::kBadFormat, "{}: the vocabulary has no token for the byte 0x{:02x} ('{}')", source,
           byte, alphabet_char(static_cast<unsigned char>(byte)));
    }
    byte_tokens_[static_cast<std::size_t>(byte)] = id;
  }
  rules_.assign(std::bit_ceil(merges.size() + merges.size() / 2 + 2), {kFree, kNoRule, -1});
  for (std::size_t i = 0; i < merges.size(); ++i) add_rule(merges[i], static_cast<std::uint32_t>(i));
}

std::size_t ByteBpe::slot_of(std::uint64_t pair) const {
  const std::size_t mask = rules_.size() - 1;
  std::uint64_t hash = pair * 0x9E3779B97F4A7C15u;
  std::size_t i = (hash ^ hash >> 32) & mask;
  while (rules_[i].pair != pair && rules_[i].pair != kFree) i = (i + 1) & mask;
  return i;
}

// A rule given twice keeps the later rank, as in `tokenizers`.
void ByteBpe::add_rule(const Merge& merge, std::uint32_t rank) {
  const std::uint64_t pair = pair_key(merge.left, merge.right);
  rules_[slot_of(pair)] = {pair, rank, merge.result};
}

const ByteBpe::Rule* ByteBpe::find_rule(TokenId left, TokenId right) const {
  const Rule& rule = rules_[slot_of(pair_key(left, right))];
  return rule.pair == kFree ? nullptr : &rule;
}

std::uint32_t ByteBpe::rank_of(TokenId left, TokenId right) const {
  return rules_[slot_of(pair_key(left, right))].rank;
}

void ByteBpe::append_bytes(std::string_view word, std::vector<TokenId>& ids) const {
  bool after_unknown = false;
  for (const char c : word) {
    const TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
    if (id >= 0) {
      ids.push_back(id);
    } else if (options_.unknown >= 0 && !(after_unknown && options_.fuse_unknown)) {
      ids.push_back(options_.unknown);
    }
    after_unknown = id < 0;
  }
}

bool ByteBpe::encode_whole(std::string_view word, std::vector<TokenId>& ids) const {
  std::string spelling;
  for (const char c : word) spelling += alphabet_char(static_cast<unsigned char>(c));
  const TokenId id = vocabulary_->find(spelling);
  if (id >= 0) ids.push_back(id);
  return id >= 0;
}

std::size_t ByteBpe::merge_short(std::span<TokenId> ids) const {
  std::uint32_t ranks[kShortWord];  // of the pair that begins at each symbol
  std::size_t count = ids.size();
  for (std::size_t i = 0; i + 1 < count; ++i) ranks[i] = rank_of(ids[i], ids[i + 1]);
  while (count > 1) {
    const std::size_t best = static_cast<std::size_t>(std::min_element(ranks, ranks + count - 1) - ranks);
    if (ranks[best] == kNoRule) break;
    ids[best] = find_rule(ids[best], ids[best + 1])->result;
    std::move(ids.begin() + best + 2, ids.begin() + count, ids.begin() + best + 1);
    if (best + 2 < count) std::move(ranks + best + 2, ranks + count - 1, ranks + best + 1);
    --count;
    if (best + 1 < count) ranks[best] = rank_of(ids[best], ids[best + 1]);
    if (best > 0) ranks[best - 1] = rank_of(ids[best - 1], ids[best]);
  }
  return count;
}

std::size_t ByteBpe::merge_long(std::span<TokenId> ids) const {
  constexpr std::uint32_t kEnd = std::numeric_limits<std::uint32_t>::max();
  struct Symbol {
    std::uint32_t previous, next;
    std::uint32_t rank;  // of the pair that begins here; a heap entry with another rank is out of date
  };
  const auto count = static_cast<std::uint32_t>(ids.size());
  std::vector<Symbol> symbols(count);
  std::vector<std::uint64_t> entries;  // rank, then place: the order of merging
  for (std::uint32_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    symbols[i] = {i == 0 ? kEnd : i - 1, last ? kEnd : i + 1, last ? kNoRule : rank_of(ids[i], ids[i + 1])};
    if (symbols[i].rank != kNoRule) entries.push_back(static_cast<std::uint64_t>(symbols[i].rank) << 32 | i);
  }
  std::priority_queue heap(std::greater<std::uint64_t>(), std::move(entries));
  const auto update = [&](std::uint32_t i) {
    const std::uint32_t next = symbols[i].next;
    symbols[i].rank = next == kEnd ? kNoRule : rank_of(ids[i], ids[next]);
    if (symbols[i].rank != kNoRule) heap.push(static_cast<std::uint64_t>(symbols[i].rank) << 32 | i);
  };
  while (!heap.empty()) {
    const auto rank = static_cast<std::uint32_t>(heap.top() >> 32),
               i = static_cast<std::uint32_t>(heap.top());
    heap.pop();
    if (symbols[i].rank != rank) continue;
    const std::uint32_t right = symbols[i].next;
    ids[i] = find_rule(ids[i], ids[right])->result;
    symbols[right].rank = kNoRule;
    symbols[i].next = symbols[right].next;
    if (symbols[i].next != kEnd) symbols[symbols[i].next].previous = i;
    update(i);
    if (symbols[i].previous != kEnd) update(symbols[i].previous);
  }
  std::size_t kept = 0;
  for (std::uint32_t i = 0; i != kEnd; i = symbols[i].next) ids[kept++] = ids[i];
  return kept;
}

void ByteBpe::encode(std::string_view word, WordCache& cache, std::vector<TokenId>& ids) const {
  WordCache::Entry* entry = nullptr;
  if (!word.empty() && word.size() <= sizeof(entry->word)) {
    entry = &cache.entries_[XXH3_64bits(word.data(), word.size()) % kCacheWords];
    if (entry->bytes == word.size() && std::memcmp(entry->word, word.data(), word.size()) == 0) {
      ids.insert(ids.end(), entry->ids, entry->ids + entry->count);
      return;
    }
  }
  const std::size_t begin = ids.size();
  if (!options_.ignore_merges || !encode_whole(word, ids)) {
    append_bytes(word, ids);
    const std::span<TokenId> symbols(ids.data() + begin, ids.size() - begin);
    const std::size_t kept = symbols.size() <= kShortWord ? merge_short(symbols) : merge_long(symbols);
    ids.resize(begin + kept);
  }
  const std::size_t count = ids.size() - begin;
  if (entry == nullptr || count > std::size(entry->ids)) return;
  entry->bytes = static_cast<std::uint8_t>(word.size());
  entry->count = static_cast<std::uint8_t>(count);
  std::memcpy(entry->word, word.data(), word.size());
  std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(begin), count, entry->ids);
}

}  // namespace winnow
