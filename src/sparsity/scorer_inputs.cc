#include "sparsity/scorer_inputs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"
#include "sparsity/token_pruner.h"

namespace winnow {

void head_window_attention(Backend& backend, const MatrixView& q, const LayerKv& kv, float scale,
                           std::int64_t window, std::int64_t sliding_window, std::span<float> attention) {
  const std::int64_t heads = backend.model_heads(q, kv), tokens = q.rows, queries = std::min(window, tokens);
  check(std::ssize(attention) == heads * tokens && tokens <= kv.rows,
        "window attention: a number for each head and token");
  std::vector<float> all(static_cast<std::size_t>(heads * kv.rows));
  backend.window_scores({.q = q.slice(tokens - queries, queries),
                         .kv = &kv,
                         .scale = scale,
                         .per_head = true,
                         .scores = all,
                         .sliding_window = sliding_window});
  for (std::int64_t head = 0; head < heads; ++head) {
    const float* own = all.data() + (head + 1) * kv.rows - tokens;
    for (std::int64_t j = 0; j < tokens; ++j)
      attention[head * tokens + j] = static_cast<float>(tokens) * own[j];
  }
}

void write_attention_columns(std::span<const float> attention, std::int64_t heads,
                             std::span<const std::int64_t> pools, float* out, std::int64_t stride) {
  const std::int64_t tokens = std::ssize(attention) / heads;
  std::vector<float> column(static_cast<std::size_t>(tokens));
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t j = 0; j < tokens; ++j)
      column[j] = 0.5f * std::log(0.01f + attention[head * tokens + j]);
    for (std::size_t pool = 0; pool < pools.size(); ++pool) {
      std::vector<float> pooled = column;
      max_pool(pooled, pools[pool]);
      float* to = out + static_cast<std::int64_t>(pool) * heads + head;
      for (std::int64_t j = 0; j < tokens; ++j) to[j * stride] = pooled[j];
    }
  }
}

void write_place_columns(std::int64_t tokens, float* out, std::int64_t stride) {
  const auto log_share = [](std::int64_t count) { return std::log(1.0f + static_cast<float>(count)) / 8.0f; };
  for (std::int64_t j = 0; j < tokens; ++j) {
    float* row = out + j * stride;
    row[0] = log_share(tokens - 1 - j);
    row[1] = log_share(j);
    row[2] = static_cast<float>(j) / static_cast<float>(tokens);
    row[3] = log_share(tokens);
  }
}

void write_hidden_columns(const float* hidden, std::int64_t dim, float* out) {
  const float squares = std::inner_product(hidden, hidden + dim, hidden, 0.0f);
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(dim) + 1e-12f);
  for (std::int64_t i = 0; i < dim; ++i) out[i] = hidden[i] * scale;
}

}  // namespace winnow
