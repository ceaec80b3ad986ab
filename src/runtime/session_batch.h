// Several sessions of one engine in one pass over the weights: decode_batch() appends a token to each,
// prefill_batch() reads a prompt into each. Called by what serves many conversations; Session::decode() is
// the case of one.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "runtime/session.h"

namespace winnow {

// Appends tokens[i] to sessions[i], as sessions[i]->decode(tokens[i]) would; its logits are then in
// sessions[i]->logits(). The sessions are different ones, of any lengths and policies; one call at a time on
// an engine. Error(kBadArgument), with no session changed, when one has no room or a token is outside the
// vocabulary.
void decode_batch(std::span<Session* const> sessions, std::span<const TokenId> tokens);

// A session and what it is to read.
struct Reading {
  Session* session = nullptr;
  std::span<const TokenId> tokens;
  std::int64_t reserve_tokens = 128;  // as PrefillOptions
};

// Every session reads its tokens as its prefill() would under the dense policy. The sessions are different
// ones; all tokens together are at most the backend's chunk_rows(): a longer prompt fills the products by
// itself. Each one's prefill_stats().ms is the time of the whole pass. `cancelled` (may be empty) is asked
// between layers; if it says true, this is false. Errors are those of Session::prefill(), kOutOfMemory where
// there is too little for all of them together. After either, caches and positions are as before; what the
// last prefill and the steps since then recorded (stages, stats) may be gone.
bool prefill_batch(std::span<const Reading> readings, const std::function<bool()>& cancelled = {});

}  // namespace winnow
