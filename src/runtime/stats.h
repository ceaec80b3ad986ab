// What a pass over the model computed: enough to put FLOP/s and GB/s beside every time.
#pragma once

#include <cstdint>

namespace winnow {

struct PassStats {
  double ms = 0;
  std::int64_t prompt_tokens = 0;
  double linear_flops = 0;     // 2 x multiply-adds of the linear layers
  double attention_flops = 0;  // of scores and values, of the pairs computed
  double layer_tokens = 0;     // tokens that entered a layer, summed over layers
  std::int64_t layers = 0;
  // (query, key) pairs of which the query sees the key, mean over heads, summed over layers:
  double attention_pairs = 0;        // computed
  double causal_pairs = 0;           // among the tokens that were left: what dense attention computes
  double dense_attention_pairs = 0;  // of an unpruned prompt
  double plan_ms = 0;                // choosing blocks
  std::int64_t sparse_chunks = 0, dense_chunks = 0;  // attention over a plan, and in full
  double weight_bytes = 0;                           // packed weights read once
  double kv_bytes = 0;                               // caches read (decode)

  double flops() const { return linear_flops + attention_flops; }
  // Tokens processed per layer / prompt tokens, mean over layers.
  double avgtok() const {
    return prompt_tokens == 0 ? 1.0 : layer_tokens / static_cast<double>(layers * prompt_tokens);
  }
  // Computed pairs among the surviving tokens, and against the unpruned triangle.
  double density() const { return causal_pairs == 0 ? 1.0 : attention_pairs / causal_pairs; }
  double attn_work() const {
    return dense_attention_pairs == 0 ? 1.0 : attention_pairs / dense_attention_pairs;
  }
};

}  // namespace winnow
