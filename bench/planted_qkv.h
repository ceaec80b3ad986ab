// Rows q | k | v that attend roughly as a text does, for benchmarks of block planning: passages of 64 tokens
// have a topic of their own; a query looks at its own passage, one earlier passage of its choice (for each
// head) and the first token.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace winnow {

inline std::vector<float> noise(std::mt19937& random, std::int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

inline std::vector<float> planted_qkv(std::int64_t tokens, std::int64_t heads, std::int64_t kv_heads,
                                      std::int64_t head_dim) {
  constexpr std::int64_t kPassage = 64;
  const std::int64_t cols = (heads + 2 * kv_heads) * head_dim;
  std::mt19937 random(2);
  std::vector<float> qkv = noise(random, tokens * cols);
  const std::int64_t passages = (tokens + kPassage - 1) / kPassage;
  // The last one: of the first token.
  const std::vector<float> topics = noise(random, (passages + 1) * kv_heads * head_dim);
  const auto add = [&](float* to, std::int64_t passage, std::int64_t kv_head, float factor) {
    const float* topic = topics.data() + (passage * kv_heads + kv_head) * head_dim;
    for (std::int64_t d = 0; d < head_dim; ++d) to[d] += factor * topic[d];
  };
  for (std::int64_t row = 0; row < tokens; ++row) {
    const std::int64_t passage = row / kPassage;
    float* q = qkv.data() + row * cols;
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t kv_head = head / (heads / kv_heads);
      const auto earlier = static_cast<std::int64_t>(random() % static_cast<unsigned>(passage + 1));
      add(q + head * head_dim, passage, kv_head, 1.0f);
      add(q + head * head_dim, earlier, kv_head, 0.8f);
      add(q + head * head_dim, passages, kv_head, 1.0f);
    }
    float* k = q + heads * head_dim;
    for (std::int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      add(k + kv_head * head_dim, row == 0 ? passages : passage, kv_head, row == 0 ? 1.5f : 1.0f);
    }
  }
  return qkv;
}

}  // namespace winnow
