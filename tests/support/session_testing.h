// What the tests of sessions share: engines of the tiny golden models, tokens, policies, comparisons.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/session.h"

namespace winnow {

// Opened once a process. Its attention costs are fixed, so that no test measures anything: skipping blocks is
// always worth it.
inline const Engine& engine(const std::string& model = "tiny-llama", const std::string& device = "cpu",
                            Precision precision = Precision::kF32, KvType kv = KvType::kSame) {
  static std::map<std::string, std::unique_ptr<Engine>> opened;
  auto& slot = opened[model + device + (precision == Precision::kF32 ? "f32" : "bf16") + kv_type_name(kv)];
  if (!slot) {
    slot = Engine::open({.model = WINNOW_TEST_DATA "/models/" + model,
                         .random_weights = "",
                         .device = device,
                         .precision = precision,
                         .kv = kv,
                         .threads = 2,
                         .progress = {},
                         .attention_costs = [](const BlockRule&) {
                           return AttentionCosts{1, 0.1, 0, 0};
                         }});
  }
  return *slot;
}

inline std::vector<TokenId> some_tokens(std::int64_t count, int seed = 1) {
  std::vector<TokenId> tokens;
  unsigned state = static_cast<unsigned>(seed);
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<TokenId>((state >> 16) % 300));
  }
  return tokens;
}

// Stages at layers 2 and 4 of 6; protection small enough that the scorer decides something.
inline Policy staged(ScorerKind scorer, double keep) {
  Policy policy;
  policy.name = "staged";
  policy.tokens.scorer = scorer;
  policy.tokens.stages = {{.layer = 2, .keep = keep, .top_p = {}}, {.layer = 4, .keep = keep, .top_p = {}}};
  policy.tokens.window = 8;
  policy.tokens.protect_head = 2;
  policy.tokens.protect_tail_min = 4;
  policy.tokens.protect_tail_share = 0.05;
  return policy;
}

inline std::vector<float> logits_after(Session& session, std::span<const TokenId> tokens,
                                       const Policy& policy) {
  EXPECT_TRUE(session.prefill(tokens, policy, {}));
  return {session.logits().begin(), session.logits().end()};
}

inline std::vector<float> fresh_logits(const Engine& e, std::span<const TokenId> tokens,
                                       const Policy& policy) {
  Session session(e);
  return logits_after(session, tokens, policy);
}

// `tolerance` is relative to the largest expected value.
inline void expect_near(std::span<const float> found, std::span<const float> expected, float tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  float largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], tolerance * largest) << i;
}

}  // namespace winnow
