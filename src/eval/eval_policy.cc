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
