// What a combination of a token policy and a block density will cost, from what each cost alone.
#pragma once

#include "calibrate/measured.h"

namespace winnow {

// Losses add up as the sides of a right angle do: much of what blocks lose has been dropped by stages already
// (docs/quality.md). The share of attention's time that blocks save applies to the attention that pruning
// leaves.
class CombinationModel {
 public:
  // `dense` and the measured policies that only select blocks: they tell how much time attention takes.
  CombinationModel(const Measured& dense, std::span<const Measured> block_policies);

  struct Prediction {
    double kl = 0, dce = 0, niah = 0, speedup = 1;
  };
  Prediction combine(const Measured& tokens, const Measured& blocks) const;

 private:
  double dense_niah_;
  double attention_share_ = 0;  // of dense time that would be saved at density 0
};

}  // namespace winnow
