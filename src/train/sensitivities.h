// How much the model's predictions depend on what each head gives: for whoever weighs errors of attention
// against each other (calibrate).
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "train/model_pass.h"

namespace winnow {

// [layers][heads] s with: an error d_i in what the head gives for token i (before the output projection)
// raises the KL of the next-token distributions, mean over the tokens of the window, by about s x mean_i
// |d_i|^2 / 2. This is the diagonal of the Fisher information (gradients of the model's loss on tokens drawn
// from its own predictions), averaged over a head's dimensions and the window's tokens.
struct HeadSensitivities {
  std::vector<std::vector<double>> by_head;
  std::int64_t windows = 0;  // averaged over so many
};

// One window more. `seed` draws the tokens that the gradients are taken for.
void add_sensitivities(ModelPass& pass, std::span<const TokenId> tokens, std::uint64_t seed,
                       HeadSensitivities& sensitivities);

}  // namespace winnow
