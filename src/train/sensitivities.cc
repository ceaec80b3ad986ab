#include "train/sensitivities.h"

namespace winnow {

void add_sensitivities(ModelPass& pass, std::span<const TokenId> tokens, std::uint64_t seed,
                       HeadSensitivities& sensitivities) {
  const Architecture& arch = pass.engine().arch();
  const auto rows = static_cast<double>(tokens.size());
  sensitivities.by_head.resize(static_cast<std::size_t>(arch.layers),
                               std::vector<double>(static_cast<std::size_t>(arch.heads)));
  pass.forward(tokens, {});
  WindowLoss loss;
  loss.own_targets = seed;
  pass.loss(loss);
  // The loss is a mean over rows - 1 predictions: rows - 1 times its gradient is that of the sum, whose
  // square is the Fisher information of all predictions together.
  const double before = static_cast<double>(sensitivities.windows);
  ModelPass::BackwardOptions options;
  options.at_attention = [&](const LayerView& view) {
    std::vector<double> squares(static_cast<std::size_t>(arch.heads));
    for (std::int64_t row = 0; row < view.gradient.rows; ++row) {
      const float* gradient = view.gradient.row<float>(row);
      for (std::int64_t i = 0; i < arch.q_dim(); ++i)
        squares[i / arch.head_dim] += static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]);
    }
    for (std::int64_t head = 0; head < arch.heads; ++head) {
      const double own =
          squares[head] * (rows - 1) * (rows - 1) / (rows * static_cast<double>(arch.head_dim));
      double& mean = sensitivities.by_head[view.layer][head];
      mean = (mean * before + own) / (before + 1);
    }
  };
  pass.backward(options);
  ++sensitivities.windows;
}

}  // namespace winnow
