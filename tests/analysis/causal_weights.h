// Attention weights of one head for the tests: causal, each row a distribution over the keys that it sees.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "analysis/block_sweep.h"

namespace winnow {

struct CausalWeights {
  std::int64_t tokens = 0;
  std::vector<float> weights;  // [tokens, tokens]
  std::int64_t window = 0;     // WeightChunk::window

  float at(std::int64_t row, std::int64_t key) const { return weights[row * tokens + key]; }
  WeightChunk chunk(std::int64_t first_row, std::int64_t rows) const {
    return {weights.data() + first_row * tokens, tokens, first_row, rows, window};
  }
  WeightChunk all() const { return chunk(0, tokens); }
};

// Softmax of random scores; the larger `spread`, the fewer keys hold a row's mass.
inline CausalWeights random_weights_of(std::int64_t tokens, float spread, unsigned seed,
                                       std::int64_t window = 0) {
  CausalWeights result{tokens, std::vector<float>(static_cast<std::size_t>(tokens * tokens)), window};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  for (std::int64_t row = 0; row < tokens; ++row) {
    const std::int64_t first = result.chunk(row, 1).first_key(row);
    std::vector<double> exps;
    double sum = 0;
    for (std::int64_t key = first; key <= row; ++key) sum += exps.emplace_back(std::exp(normal(random)));
    for (std::int64_t key = first; key <= row; ++key)
      result.weights[row * tokens + key] = static_cast<float>(exps[key - first] / sum);
  }
  return result;
}

inline CausalWeights uniform_weights(std::int64_t tokens) {
  CausalWeights result{tokens, std::vector<float>(static_cast<std::size_t>(tokens * tokens))};
  for (std::int64_t row = 0; row < tokens; ++row) {
    for (std::int64_t key = 0; key <= row; ++key)
      result.weights[row * tokens + key] = 1.0f / static_cast<float>(row + 1);
  }
  return result;
}

}  // namespace winnow
