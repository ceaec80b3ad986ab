// What a learned scorer looks at, a row of numbers for each token at a stage. Written here for both sides:
// the scorer at run time and the training of scorers (train/).
//
// Columns, in this order:
//   attention  for each observed layer, each pool width and each head: ln(0.01 + r_j) / 2, where r_j is the
//   attention that the last
//              `window` queries pay to token j (mean over them) times the number of tokens of that layer: 1
//              is as much as if all tokens got the same. The largest r within the pool width around j is
//              taken, among the tokens alive at the stage
//   place      ln(1 + tokens after it) / 8, ln(1 + tokens before it) / 8, its place in 0..1, and ln(1 + n) /
//   8 hidden     the token's hidden state at the stage over its root mean square, where the scorer asks for
//   it
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backends/backend.h"

namespace winnow {

struct ScorerInputs {
  std::vector<std::int64_t> attention_layers;  // observed, ascending, all before the stage
  std::int64_t window = 64;
  std::vector<std::int64_t> pools;  // widths, odd
  bool hidden = false;

  static constexpr std::int64_t kPlaceColumns = 4;
  std::int64_t layer_columns(std::int64_t heads) const { return std::ssize(pools) * heads; }
  std::int64_t columns(std::int64_t heads, std::int64_t model_dim) const {
    return std::ssize(attention_layers) * layer_columns(heads) + kPlaceColumns + (hidden ? model_dim : 0);
  }
};

// attention[h * tokens + j] = r of the j-th of the cache's last `tokens` rows, by the last `window` (or
// fewer) of the queries q [tokens, q_dim].
void head_window_attention(Backend& backend, const MatrixView& q, const LayerKv& kv, float scale,
                           std::int64_t window, std::int64_t sliding_window, std::span<float> attention);

// Columns of one observed layer, from its heads' r [heads, tokens]; row j begins at out[j * stride].
void write_attention_columns(std::span<const float> attention, std::int64_t heads,
                             std::span<const std::int64_t> pools, float* out, std::int64_t stride);
// The columns that say where the tokens are.
void write_place_columns(std::int64_t tokens, float* out, std::int64_t stride);
// hidden[0..dim) / rms(hidden).
void write_hidden_columns(const float* hidden, std::int64_t dim, float* out);

}  // namespace winnow
