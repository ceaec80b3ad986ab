// Policy files. What is accepted must be written and read back as the same policy.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/error.h"
#include "formats/json_text.h"
#include "sparsity/policy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  winnow::Policy policy;
  try {
    const auto json =
        winnow::parse_json_object({reinterpret_cast<const char*>(data), size}, "fuzz/policy.json", 1 << 20);
    policy = winnow::policy_from_json(json, "fuzz/policy.json");
  } catch (const winnow::Error&) {
    return 0;
  }
  const auto written = winnow::policy_to_json(policy);
  const auto again = winnow::policy_to_json(winnow::policy_from_json(written, "other/policy.json"));
  winnow::check(again == written, "a policy survives writing and reading");
  try {
    winnow::check_policy(policy, {"model", "0123", 28}, "fuzz/policy.json");
  } catch (const winnow::Error&) {
  }
  return 0;
}
