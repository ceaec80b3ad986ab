#include "train/pruned_forward.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace winnow {

void pruned_forward(ModelPass& pass, const TrainingWindow& window, InputCatcher& catcher,
                    const std::vector<std::int64_t>& stages,
                    const std::function<std::vector<std::int64_t>(std::int64_t stage)>& choose,
                    ModelPass::ForwardOptions options) {
  std::vector<float> mask(window.tokens.size(), 1.0f);
  options.probs_of = [&](std::int64_t layer) { return catcher.probs_of(layer); };
  options.before_layer = [&](std::int64_t layer, const MatrixView& hidden) {
    catcher.before_layer(layer, hidden);
    if (std::find(stages.begin(), stages.end(), layer) == stages.end()) return;
    std::vector<std::int64_t> alive;
    for (const std::int64_t i : choose(layer)) alive.push_back(catcher.alive()[static_cast<std::size_t>(i)]);
    std::fill_n(mask.begin(), window.context, 0.0f);
    for (const std::int64_t token : alive) mask[static_cast<std::size_t>(token)] = 1.0f;
    catcher.keep(std::move(alive));
    pass.set_keep(mask);
  };
  pass.forward(window.tokens, options);
}

double spread_of(std::span<const float> scores) {
  const auto tokens = static_cast<double>(scores.size());
  double mean = 0, squares = 0;
  for (const float score : scores) mean += score / tokens;
  for (const float score : scores) squares += (score - mean) * (score - mean) / tokens;
  return std::sqrt(squares) + 1e-6;
}

std::vector<float> with_noise(std::span<const float> scores, double scale, TextRandom& random) {
  std::vector<float> noisy(scores.begin(), scores.end());
  for (float& score : noisy) {
    const double u = std::clamp(random.share(), 1e-6, 1 - 1e-6);
    if (scale > 0) score += static_cast<float>(scale * std::log(u / (1 - u)));
  }
  return noisy;
}

}  // namespace winnow
