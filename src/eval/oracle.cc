#include "eval/oracle.h"

#include <algorithm>

#include "core/check.h"
#include "eval/attention_sums.h"
#include "sparsity/token_pruner.h"

namespace winnow {

std::optional<Oracle> Oracle::observe(const Engine& engine, std::span<const TokenId> prompt,
                                      std::span<const TokenId> following,
                                      const std::function<bool()>& cancelled) {
  check(prompt.size() >= 2 && !following.empty(), "oracle: a prompt, and a text after it");
  Session session(engine);
  PrefillOptions options;
  options.reserve_tokens = static_cast<std::int64_t>(following.size()) + 1;
  options.cancelled = cancelled;
  if (!session.prefill(prompt.first(prompt.size() - 1), Policy{}, options)) return std::nullopt;

  std::vector<TokenId> asking{prompt.back()};
  asking.insert(asking.end(), following.begin(), following.end() - 1);
  AttentionSums sums(engine);
  options.observe_attention = [&](const AttentionView& view) { sums.add(view); };
  if (!session.prefill(asking, Policy{}, options)) return std::nullopt;

  Oracle oracle;
  oracle.from_layer_.resize(static_cast<std::size_t>(sums.layers()));
  for (std::int64_t layer = sums.layers() - 1; layer >= 0; --layer) {
    std::vector<float>& own = oracle.from_layer_[layer];
    own = sums.max_over_heads(layer);
    own.resize(prompt.size());
    if (layer + 1 == sums.layers()) continue;
    const std::vector<float>& later = oracle.from_layer_[layer + 1];
    for (std::size_t i = 0; i < own.size(); ++i) own[i] = std::max(own[i], later[i]);
  }
  return oracle;
}

void Oracle::score(std::int64_t layer, std::span<const std::int32_t> positions, double recency_mix,
                   std::span<float> scores) const {
  const std::vector<float>& all = from_layer_[layer];
  for (std::size_t i = 0; i < positions.size(); ++i) {
    check(positions[i] < std::ssize(all), "oracle: a place in the prompt it observed");
    scores[i] = all[positions[i]];
  }
  mix_recency(scores, recency_mix);
}

}  // namespace winnow
