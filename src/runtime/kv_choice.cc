#include "runtime/kv_choice.h"

#include "core/error.h"

namespace winnow {

std::optional<KvType> kv_type_of(std::string_view name) {
  for (const KvType type : {KvType::kSame, KvType::kQ8}) {
    if (name == kv_type_name(type)) return type;
  }
  return std::nullopt;
}

void check_policy_fits_caches(const Policy& policy, KvType kv) {
  if (kv == KvType::kSame || policy.attention.dense() || policy.attention.decode != DecodeMode::kSelected)
    return;
  fail(ErrorCode::kUnsupported,
       "policy {}: attention.decode selected chooses blocks by the keys as computed: not with --kv {}",
       policy.name, kv_type_name(kv));
}

Policy parse_policy(const std::string& text, const ModelFacts& model, KvType kv) {
  Policy policy = parse_policy(text, model);
  check_policy_fits_caches(policy, kv);
  return policy;
}

}  // namespace winnow
