// What caches keep (KvType): the names people choose it by, and the policies it is not for.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "backends/backend.h"
#include "sparsity/policy.h"

namespace winnow {

// The kind that kv_type_name() calls so; nothing for any other text.
std::optional<KvType> kv_type_of(std::string_view name);

// Error(kUnsupported) for a policy whose decoding cannot read such caches.
void check_policy_fits_caches(const Policy& policy, KvType kv);

// parse_policy() (sparsity/policy.h) of a policy for such caches.
Policy parse_policy(const std::string& text, const ModelFacts& model, KvType kv);

}  // namespace winnow
