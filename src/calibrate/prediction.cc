#include "calibrate/prediction.h"

#include <algorithm>
#include <cmath>

namespace winnow {

CombinationModel::CombinationModel(const Measured& dense, std::span<const Measured> block_policies)
    : dense_niah_(dense.niah) {
  // Least squares through the origin: time saved = attention_share x (1 - density).
  double saved = 0, squares = 0;
  for (const Measured& policy : block_policies) {
    const double skipped = 1 - policy.density;
    saved += (1 - 1 / policy.speedup) * skipped;
    squares += skipped * skipped;
  }
  if (squares > 0) attention_share_ = std::clamp(saved / squares, 0.0, 0.95);
}

CombinationModel::Prediction CombinationModel::combine(const Measured& tokens, const Measured& blocks) const {
  Prediction prediction;
  prediction.kl = std::hypot(tokens.kl, blocks.kl);
  prediction.dce = std::hypot(std::max(0.0, tokens.dce), std::max(0.0, blocks.dce));
  prediction.niah = tokens.niah + blocks.niah - dense_niah_;
  const double time = 1 / tokens.speedup - attention_share_ * (1 - blocks.density) * tokens.attn_work;
  prediction.speedup = 1 / std::max(time, 0.02);
  return prediction;
}

}  // namespace winnow
