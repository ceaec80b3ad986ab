// A forward pass of a window in which stages drop tokens of the context, as a prefill under a policy would.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "eval/text_random.h"
#include "train/input_catcher.h"
#include "train/model_pass.h"
#include "train/training_data.h"

namespace winnow {

// At a stage, `choose` says which of catcher.alive() stay: indices, ascending. The first of pass's keeps
// belongs to the first stage, and so on. Of `options`, `layers` and `keep_activations` count.
void pruned_forward(ModelPass& pass, const TrainingWindow& window, InputCatcher& catcher,
                    const std::vector<std::int64_t>& stages,
                    const std::function<std::vector<std::int64_t>(std::int64_t stage)>& choose,
                    ModelPass::ForwardOptions options);

// Standard deviation of the scores, and a little more than 0.
double spread_of(std::span<const float> scores);
// scores + logistic noise of that scale: what keeps the highest of these keeps others now and then.
std::vector<float> with_noise(std::span<const float> scores, double scale, TextRandom& random);

}  // namespace winnow
