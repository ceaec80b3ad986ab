// Session files: what a session has cached of a prompt, kept for later. Bound to the model, the policy and
// the prompt: caches that were pruned for one question are of no use for another, and are refused there.
//
// Little-endian, format version 1:
//   magic      8 bytes   "WNWKV\0\0\1"
//   header     u64 bytes, then so many bytes of JSON: {winnow, backend, precision, model, policy,
//   policy_name,
//              prompt, tokens, next_position, compact, layers: [{rows, capacity, k_bytes, v_bytes}]}; model,
//              policy and prompt are hashes in hexadecimal
//   for each layer   positions i32[rows], keys [k_bytes], values [v_bytes], both in the backend's own layout
//   logits     f32[vocab], those after the prompt's last token
//   checksum   u64, XXH3 of all bytes before it
// Nothing in a file is believed: sizes are checked against the model and against the bytes that are there.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "runtime/session.h"

namespace winnow {

// Of everything in the policy that decides a result, and of its scorer's file. Error(kIo) when that cannot be
// read.
std::string policy_hash(const Policy& policy);

class SessionFile {
 public:
  // `session` has read `prompt` under `policy` in one prefill and decoded nothing since. Written atomically.
  // Error(kIo).
  static void save(const std::string& path, const Engine& engine, const Session& session,
                   const Policy& policy, std::span<const TokenId> prompt);

  // A session that has read `prompt` under `policy`, logits included. Error(kIo); Error(kBadFormat) for a
  // file that is no session file or is damaged; Error(kBadArgument) naming what does not belong together:
  // model, backend, policy or prompt.
  static std::unique_ptr<Session> load(const std::string& path, const Engine& engine, const Policy& policy,
                                       std::span<const TokenId> prompt);

 private:
  static std::string contents(const Engine& engine, const Session& session, const Policy& policy,
                              std::span<const TokenId> prompt);
};

}  // namespace winnow
