// PrefixCache: sessions of earlier requests, for prompts that begin the same (a system message, a document, a
// conversation that goes on).
//
// It holds what was read densely and nothing else. A pruned cache depends on the question it was pruned for,
// so whoever prunes computes anew: see Scheduler.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "runtime/session.h"

namespace winnow {

class PrefixCache {
 public:
  // Holds at most `max_bytes` of memory; 0: nothing.
  explicit PrefixCache(std::int64_t max_bytes) : max_bytes_(max_bytes) {}

  // A session that has read a beginning of `tokens`, the longest there is, but not their last one; null when
  // none is worth it. A session that serves no other prompt is handed over, otherwise copied.
  std::unique_ptr<Session> take(std::span<const TokenId> tokens);

  // `tokens` are all that `session` has read: session->tokens() many. It must be complete() and its policy
  // must have been dense. The least recently used leave when there is no room.
  void put(std::unique_ptr<Session> session, std::vector<TokenId> tokens);

  std::int64_t bytes() const { return bytes_; }
  std::int64_t entries() const { return static_cast<std::int64_t>(entries_.size()); }

 private:
  struct Entry {
    std::vector<TokenId> tokens;
    std::unique_ptr<Session> session;
    std::int64_t bytes = 0;
  };
  using Entries = std::list<Entry>;  // most recently used first

  void erase(Entries::iterator entry);

  std::int64_t max_bytes_, bytes_ = 0;
  Entries entries_;
};

}  // namespace winnow
