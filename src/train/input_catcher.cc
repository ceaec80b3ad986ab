#include "train/input_catcher.h"

#include <algorithm>
#include <numeric>

namespace winnow {

InputCatcher::InputCatcher(const Architecture& arch, std::int64_t context, const SampleSettings& settings)
    : arch_(arch), context_(context), settings_(settings), alive_(static_cast<std::size_t>(context)) {
  std::iota(alive_.begin(), alive_.end(), 0);
  for (const auto& [stage, inputs] : settings.inputs) {
    for (const std::int64_t layer : inputs.attention_layers) attention_[layer];
  }
}

void InputCatcher::before_layer(std::int64_t layer, const MatrixView& hidden) {
  const auto found = settings_.inputs.find(layer);
  if (found == settings_.inputs.end() || !found->second.hidden) return;
  const float* begin = hidden.row<float>(0);
  hidden_[layer].assign(begin, begin + context_ * arch_.model_dim);
}

// The window's queries are the context's last ones, which no stage drops.
VisitProbs InputCatcher::probs_of(std::int64_t layer) {
  const auto found = attention_.find(layer);
  if (found == attention_.end()) return {};
  found->second.assign(static_cast<std::size_t>(arch_.heads * context_), 0.0f);
  const std::int64_t tokens = std::ssize(alive_),
                     window = std::min(settings_.inputs.begin()->second.window, tokens);
  const std::int64_t first = alive_[static_cast<std::size_t>(tokens - window)];
  const float share = static_cast<float>(tokens) / static_cast<float>(window);
  return [this, to = &found->second, first, share](const ProbsTile& tile) {
    add_window(tile, *to, first, share);
  };
}

ModelPass::ForwardOptions InputCatcher::hooks() {
  ModelPass::ForwardOptions options;
  options.before_layer = [this](std::int64_t layer, const MatrixView& hidden) {
    before_layer(layer, hidden);
  };
  options.probs_of = [this](std::int64_t layer) { return probs_of(layer); };
  return options;
}

void InputCatcher::add_window(const ProbsTile& tile, std::vector<float>& to, std::int64_t first_query,
                              float share) const {
  const std::int64_t keys = std::min(tile.keys, context_ - tile.first_key);
  float* sums = to.data() + tile.head * context_ + tile.first_key;
  for (std::int64_t r = 0; r < tile.queries; ++r) {
    const std::int64_t query = tile.first_query + r;
    if (query < first_query || query >= context_ || !std::binary_search(alive_.begin(), alive_.end(), query))
      continue;
    const float* row = tile.probs + r * tile.keys;
    for (std::int64_t j = 0; j < keys; ++j) sums[j] += share * row[j];
  }
}

std::vector<float> InputCatcher::rows(std::int64_t stage) const {
  const ScorerInputs& inputs = settings_.inputs.at(stage);
  const std::int64_t tokens = std::ssize(alive_), columns = inputs.columns(arch_.heads, arch_.model_dim);
  std::vector<float> result(static_cast<std::size_t>(tokens * columns)),
      attention(static_cast<std::size_t>(arch_.heads * tokens));
  std::int64_t column = 0;
  for (const std::int64_t layer : inputs.attention_layers) {
    const std::vector<float>& all = attention_.at(layer);
    for (std::int64_t head = 0; head < arch_.heads; ++head) {
      for (std::int64_t i = 0; i < tokens; ++i)
        attention[head * tokens + i] = all[head * context_ + alive_[i]];
    }
    write_attention_columns(attention, arch_.heads, inputs.pools, result.data() + column, columns);
    column += inputs.layer_columns(arch_.heads);
  }
  write_place_columns(tokens, result.data() + column, columns);
  column += ScorerInputs::kPlaceColumns;
  for (std::int64_t i = 0; inputs.hidden && i < tokens; ++i) {
    write_hidden_columns(hidden_.at(stage).data() + alive_[i] * arch_.model_dim, arch_.model_dim,
                         result.data() + i * columns + column);
  }
  return result;
}

}  // namespace winnow
