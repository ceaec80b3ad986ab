#include "server/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace winnow {
namespace {

// Below this, computing is as fast as looking up.
constexpr std::int64_t kMinTokens = 32;

std::int64_t common_prefix(std::span<const TokenId> a, std::span<const TokenId> b) {
  const std::size_t most = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(most), b.begin()).first - a.begin();
}

}  // namespace

std::unique_ptr<Session> PrefixCache::take(std::span<const TokenId> tokens) {
  auto best = entries_.end();
  std::int64_t longest = 0;
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    const std::int64_t common = common_prefix(entry->tokens, tokens);
    if (common <= longest) continue;
    longest = common;
    best = entry;
  }
  // The last token is read again: its logits are what the answer begins with.
  longest = std::min(longest, static_cast<std::int64_t>(tokens.size()) - 1);
  if (longest < kMinTokens) return nullptr;
  if (longest == static_cast<std::int64_t>(best->tokens.size())) {
    std::unique_ptr<Session> session = std::move(best->session);
    erase(best);
    return session;
  }
  entries_.splice(entries_.begin(), entries_, best);
  return best->session->copy_prefix(longest);
}

void PrefixCache::put(std::unique_ptr<Session> session, std::vector<TokenId> tokens) {
  check(session->complete() && session->tokens() == static_cast<std::int64_t>(tokens.size()),
        "cached prefixes hold every token");
  const std::int64_t bytes = session->memory_bytes();
  if (bytes > max_bytes_ || static_cast<std::int64_t>(tokens.size()) < kMinTokens) return;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const std::int64_t common = common_prefix(entry->tokens, tokens);
    if (common == static_cast<std::int64_t>(tokens.size())) return;  // nothing new
    const auto current = entry++;
    if (common == static_cast<std::int64_t>(current->tokens.size())) erase(current);
  }
  while (bytes_ + bytes > max_bytes_) erase(std::prev(entries_.end()));
  entries_.push_front({std::move(tokens), std::move(session), bytes});
  bytes_ += bytes;
}

void PrefixCache::erase(Entries::iterator entry) {
  bytes_ -= entry->bytes;
  entries_.erase(entry);
}

}  // namespace winnow
