#include "runtime/batch_decode.h"

#include <algorithm>

#include "core/check.h"
#include "core/error.h"

namespace winnow {

void decode_batch(std::span<Session* const> sessions, std::span<const TokenId> tokens) {
  check(sessions.size() == tokens.size(), "decode_batch: one token a session");
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    check(&sessions[i]->engine() == &sessions[0]->engine(), "decode_batch: sessions of one engine");
    check(std::find(sessions.begin(), sessions.begin() + static_cast<std::ptrdiff_t>(i), sessions[i]) ==
              sessions.begin() + static_cast<std::ptrdiff_t>(i),
          "decode_batch: different sessions");
    sessions[i]->check_decode(tokens[i]);
  }
  for (std::size_t i = 0; i < sessions.size(); ++i) sessions[i]->decode(tokens[i]);
}

}  // namespace winnow
