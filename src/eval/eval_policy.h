// EvalPolicy: what eval compares. A policy as everywhere, and two things that exist in experiments only:
// eviction of cached rows after the prefill, and the scorer oracle.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "sparsity/kv_eviction.h"
#include "sparsity/policy.h"

namespace winnow {

struct EvalPolicy {
  std::string name;  // as on the command line
  Policy policy;
  std::optional<KvEviction> eviction;

  bool oracle() const { return policy.prunes() && policy.tokens.scorer == ScorerKind::kOracle; }
  bool dense() const { return policy.dense() && !eviction; }
  // Timed as run would do it: oracle and eviction look at attention in ways made for analysis, not for speed.
  bool timed() const { return !oracle() && !eviction; }
};

// POLICY (parse_policy()), snapkv=KEEP, h2o=KEEP, or POLICY>snapkv=KEEP and POLICY>h2o=KEEP: '>' means "then
// evict". Error(kBadArgument) for anything else.
EvalPolicy parse_eval_policy(const std::string& text, const ModelFacts& model);

// A list of them, in which a scorer's name alone (recency, attention, norm, random, oracle) stands for every
// other policy that drops tokens, with that scorer: the same stages, so an equal number of tokens.
// Error(kBadArgument) when there is none.
std::vector<EvalPolicy> parse_eval_policies(const std::vector<std::string>& texts, const ModelFacts& model);

// The policy file's keys, "eviction" and "oracle" where they apply: what decides the policy's results.
nlohmann::json to_json(const EvalPolicy& policy);

}  // namespace winnow
