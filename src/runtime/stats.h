// What a pass over the model computed: enough to put FLOP/s and GB/s beside every time.
#pragma once

#include <cstdint>

namespace winnow {

struct PassStats {
  double ms = 0;
  std::int64_t prompt_tokens = 0;
  double linear_flops = 0;     // 2 x multiply-adds of the linear layers
  double attention_flops = 0;  // of scores and values, causal pairs only
  double layer_tokens = 0;     // tokens that entered a layer, summed over layers
  std::int64_t layers = 0;
  double attention_pairs = 0;        // (query, key) pairs computed, mean over heads, summed over layers
  double dense_attention_pairs = 0;  // the same for an unpruned prompt
  double weight_bytes = 0;           // packed weights read once
  double kv_bytes = 0;               // caches read (decode)

  double flops() const { return linear_flops + attention_flops; }
  // Tokens processed per layer / prompt tokens, mean over layers.
  double avgtok() const {
    return prompt_tokens == 0 ? 1.0 : layer_tokens / static_cast<double>(layers * prompt_tokens);
  }
};

}  // namespace winnow
