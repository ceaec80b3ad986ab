// PolicySession: a session that has read a prompt as an EvalPolicy says, oracle and eviction included.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "eval/eval_policy.h"
#include "eval/oracle.h"
#include "runtime/session.h"

namespace winnow {

// What reading the prompt cost; shares of the dense cost.
struct PrefillFacts {
  double ms = 0;
  double avgtok = 1, density = 1, attn_work = 1;
  double kv_share = 1;  // cache rows / (layers x prompt tokens)
  double gated = 0;     // share of the chunks of attention that the gate computed in full
};

class PolicySession {
 public:
  // Both must outlive the session.
  PolicySession(const Engine& engine, const EvalPolicy& policy)
      : engine_(engine), policy_(policy), session_(engine) {}

  // Reads the prompt. `oracle`: of this prompt, for a policy that wants one. False when `cancelled`.
  bool read(std::span<const TokenId> prompt, const Oracle* oracle, std::int64_t reserve_tokens,
            const std::function<bool()>& cancelled);

  Session& session() { return session_; }
  const PrefillFacts& facts() const { return facts_; }
  bool timed() const { return policy_.timed(); }

 private:
  void evict(const class AttentionSums& sums);

  const Engine& engine_;
  const EvalPolicy& policy_;
  Session session_;
  PrefillFacts facts_;
};

}  // namespace winnow
