#include "tokenizer/merge_rules.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <queue>

namespace winnow {
namespace {

constexpr std::uint64_t kFree = ~std::uint64_t{0};
constexpr std::uint32_t kNoRule = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kShortWord = 48;  // symbols up to which a scan beats the heap

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

MergeRules::MergeRules(std::span<const Merge> merges) {
  rules_.assign(std::bit_ceil(merges.size() + merges.size() / 2 + 2), {kFree, kNoRule, -1});
  for (const Merge& merge : merges) add(merge);
}

std::size_t MergeRules::slot_of(std::uint64_t pair) const {
  const std::size_t mask = rules_.size() - 1;
  std::uint64_t hash = pair * 0x9E3779B97F4A7C15u;
  std::size_t i = (hash ^ hash >> 32) & mask;
  while (rules_[i].pair != pair && rules_[i].pair != kFree) i = (i + 1) & mask;
  return i;
}

// A rule given twice keeps the later rank, as in `tokenizers`.
void MergeRules::add(const Merge& merge) {
  const std::uint64_t pair = pair_key(merge.left, merge.right);
  rules_[slot_of(pair)] = {pair, merge.rank, merge.result};
}

const MergeRules::Rule* MergeRules::find(TokenId left, TokenId right) const {
  const Rule& rule = rules_[slot_of(pair_key(left, right))];
  return rule.pair == kFree ? nullptr : &rule;
}

std::uint32_t MergeRules::rank_of(TokenId left, TokenId right) const {
  return rules_[slot_of(pair_key(left, right))].rank;
}

std::size_t MergeRules::merge(std::span<TokenId> ids) const {
  return ids.size() <= kShortWord ? merge_short(ids) : merge_long(ids);
}

std::size_t MergeRules::merge_short(std::span<TokenId> ids) const {
  std::uint32_t ranks[kShortWord];  // of the pair that begins at each symbol
  std::size_t count = ids.size();
  for (std::size_t i = 0; i + 1 < count; ++i) ranks[i] = rank_of(ids[i], ids[i + 1]);
  while (count > 1) {
    const std::size_t best = static_cast<std::size_t>(std::min_element(ranks, ranks + count - 1) - ranks);
    if (ranks[best] == kNoRule) break;
    ids[best] = find(ids[best], ids[best + 1])->result;
    std::move(ids.begin() + best + 2, ids.begin() + count, ids.begin() + best + 1);
    if (best + 2 < count) std::move(ranks + best + 2, ranks + count - 1, ranks + best + 1);
    --count;
    if (best + 1 < count) ranks[best] = rank_of(ids[best], ids[best + 1]);
    if (best > 0) ranks[best - 1] = rank_of(ids[best - 1], ids[best]);
  }
  return count;
}

std::size_t MergeRules::merge_long(std::span<TokenId> ids) const {
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
    ids[i] = find(ids[i], ids[right])->result;
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

}  // namespace winnow
