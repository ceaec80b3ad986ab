// decode_batch(): one decoding step of several sessions of one engine. Called by what serves many
// conversations; Session::decode() is the case of one.
#pragma once

#include <span>

#include "runtime/session.h"

namespace winnow {

// Appends tokens[i] to sessions[i], as sessions[i]->decode(tokens[i]) would; its logits are then in
// sessions[i]->logits(). The sessions are different ones, of any lengths and policies; one call at a time on
// an engine. Error(kBadArgument), with no session changed, when one has no room or a token is outside the
// vocabulary.
void decode_batch(std::span<Session* const> sessions, std::span<const TokenId> tokens);

}  // namespace winnow
