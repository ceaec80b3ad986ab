// How several ranks run one model (docs/multi_gpu.md): rank 0 runs the program, and what its sessions are
// asked to do the others do too. They hold the other parts of the weights and caches, and meet rank 0 inside
// the same calls of Session: in sums over the ranks, at stages, and where logits are put together.
#pragma once

#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "ranks/communicator.h"
#include "runtime/engine.h"
#include "runtime/session.h"
#include "runtime/session_batch.h"

namespace winnow {

// Rank 0's side; owned by its engine. Calls come one at a time, as those of an engine's sessions do.
class Leader {
 public:
  // The others open the engine that `options` describes; they meet this rank in Engine::open().
  Leader(Communicator& ranks, const EngineOptions& options);
  ~Leader();  // they close it, and wait for the next
  Leader(const Leader&) = delete;
  Leader& operator=(const Leader&) = delete;

  // A session on every rank, under the number returned.
  std::int64_t make_session();
  // Of any thread: the others are told with the next call.
  void drop_session(std::int64_t session) noexcept;
  void copy_session(std::int64_t from, std::int64_t to);
  void cut_session(std::int64_t session, std::int64_t tokens);
  void prefill(std::int64_t session, std::span<const TokenId> tokens, const Policy& policy,
               const PrefillOptions& options);
  void prefill_batch(std::span<const std::int64_t> sessions, std::span<const Reading> readings,
                     bool cancellable);
  // Between two layers of a prompt that can be cancelled: whether it was.
  void go_on(bool stop);
  void decode(std::span<const std::int64_t> sessions, std::span<const TokenId> tokens);

 private:
  void send(const nlohmann::json& command);

  Communicator& ranks_;
  std::int64_t sessions_made_ = 0;
  std::mutex mutex_;  // of dropped_
  std::vector<std::int64_t> dropped_;
};

// The other ranks' side: opens engines and runs sessions as rank 0 says, until dismiss_followers(). An Error
// stops all ranks (Communicator::stop) and is thrown.
void follow(const std::shared_ptr<Communicator>& ranks);

// On rank 0, once no engine is open any more.
void dismiss_followers(Communicator& ranks) noexcept;

}  // namespace winnow
