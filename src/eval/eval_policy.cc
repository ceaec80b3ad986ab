#include "eval/eval_policy.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

constexpr EvictionKind kEvictions[] = {EvictionKind::kSnapKv, EvictionKind::kH2o};

// Nothing when the text does not begin like an eviction.
std::optional<KvEviction> read_eviction(std::string_view text, const std::string& whole) {
  for (const EvictionKind kind : kEvictions) {
    const std::string_view name = eviction_name(kind);
    if (!text.starts_with(name)) continue;
    const std::string_view rest = text.substr(name.size());
    if (!rest.empty() && rest.front() != '=') continue;
    KvEviction eviction;
    eviction.kind = kind;
    const std::string_view value = rest.empty() ? rest : rest.substr(1);
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), eviction.keep);
    if (error != std::errc() || end != value.data() + value.size() ||
        !(eviction.keep > 0 && eviction.keep <= 1)) {
      fail(ErrorCode::kBadArgument,
           "policy \"{}\": {} needs the share of cached rows to keep, in (0, 1]: {}=0.3", printable(whole),
           name, name);
    }
    return eviction;
  }
  return std::nullopt;
}

// The scorer that a text names and nothing else; of those that need no file.
std::optional<ScorerKind> plain_scorer(const std::string& text) {
  for (const ScorerKind scorer : {ScorerKind::kAttention, ScorerKind::kRecency, ScorerKind::kNorm,
                                  ScorerKind::kRandom, ScorerKind::kOracle}) {
    if (text == scorer_name(scorer)) return scorer;
  }
  return std::nullopt;
}

}  // namespace

EvalPolicy parse_eval_policy(const std::string& text, const ModelFacts& model) {
  if (const auto eviction = read_eviction(text, text)) return {text, Policy{}, eviction};
  const std::size_t then = text.rfind('>');
  if (then != std::string::npos) {
    const auto eviction = read_eviction(std::string_view(text).substr(then + 1), text);
    if (!eviction) {
      fail(ErrorCode::kBadArgument,
           "policy \"{}\": what follows '>' must be snapkv=KEEP or h2o=KEEP, KEEP the share of cached rows "
           "to keep",
           printable(text));
    }
    EvalPolicy policy{text, parse_policy(text.substr(0, then), model), eviction};
    if (policy.policy.tokens.kv == KvMode::kFinal) {
      fail(ErrorCode::kBadArgument, "policy \"{}\": with kv: final the caches are cut already; use kv: own",
           printable(text));
    }
    return policy;
  }
  return {text, parse_policy(text, model), std::nullopt};
}

std::vector<EvalPolicy> parse_eval_policies(const std::vector<std::string>& texts, const ModelFacts& model) {
  std::vector<EvalPolicy> named;
  for (const std::string& text : texts) {
    if (!plain_scorer(text)) named.push_back(parse_eval_policy(text, model));
  }
  std::vector<EvalPolicy> all;
  auto next = named.begin();
  for (const std::string& text : texts) {
    const auto scorer = plain_scorer(text);
    if (!scorer) {
      all.push_back(*next++);
      continue;
    }
    const std::size_t before = all.size();
    for (EvalPolicy policy : named) {
      if (!policy.policy.prunes() || policy.eviction) continue;
      policy.name += ":" + text;
      policy.policy.name = policy.name;
      policy.policy.tokens = with_scorer(policy.policy.tokens, *scorer);
      all.push_back(std::move(policy));
    }
    if (all.size() == before) {
      fail(ErrorCode::kBadArgument,
           "policy \"{}\": a scorer alone takes the stages of the other policies, and none of them has "
           "stages; "
           "or name some: keep08:{}",
           text, text);
    }
  }
  return all;
}

nlohmann::json to_json(const EvalPolicy& policy) {
  nlohmann::json json = policy_to_json(policy.policy);
  if (policy.eviction) {
    const KvEviction& eviction = *policy.eviction;
    json["eviction"] = {{"kind", eviction_name(eviction.kind)}, {"keep", eviction.keep}};
    if (eviction.kind == EvictionKind::kSnapKv) {
      json["eviction"]["window"] = eviction.window;
      json["eviction"]["pool"] = eviction.pool;
    }
  }
  if (policy.oracle()) json["oracle"] = "ceiling, not a policy: it looks at the text that follows";
  return json;
}

}  // namespace winnow
