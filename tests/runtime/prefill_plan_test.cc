// What the presets leave in the caches of a 28-layer model, as counted before a prompt is read.
#include "runtime/prefill_plan.h"

#include <gtest/gtest.h>

#include <numeric>

#include "sparsity/policy.h"

namespace winnow {
namespace {

constexpr std::int64_t kLayers = 28;

std::vector<std::int64_t> preset_rows(double keep, std::int64_t tokens) {
  Policy policy;
  for (std::int64_t layer = 4; layer <= kLayers - 3; layer += 3) {
    policy.tokens.stages.push_back({.layer = layer, .keep = keep});
  }
  return rows_by_layer(policy, kLayers, tokens);
}

TEST(RowsByLayer, PresetsKeepTheirShareOfTheCaches) {
  struct Shares {
    double keep, own, last;  // `kv: final` leaves every layer the rows of the last
  };
  for (const std::int64_t tokens : {4096, 32768}) {
    for (const Shares& expected :
         {Shares{0.9, 0.69, 0.43}, Shares{0.8, 0.50, 0.17}, Shares{0.7, 0.38, 0.06}}) {
      SCOPED_TRACE(testing::Message() << "keep " << expected.keep << ", " << tokens << " tokens");
      const std::vector<std::int64_t> rows = preset_rows(expected.keep, tokens);
      const auto all = static_cast<double>(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}));
      EXPECT_NEAR(all / static_cast<double>(kLayers * tokens), expected.own, 0.01);
      EXPECT_NEAR(static_cast<double>(rows.back()) / static_cast<double>(tokens), expected.last, 0.01);
    }
  }
}

}  // namespace
}  // namespace winnow
