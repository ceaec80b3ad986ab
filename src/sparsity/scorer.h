// Scorer: gives each prompt token a saliency at a stage.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "backends/row_choice.h"
#include "sparsity/policy.h"
#include "sparsity/token_pruner.h"

namespace winnow {

// What a scorer may look at. Tokens are the current ones of this turn, in order.
struct ScorerInput {
  std::int64_t layer = 0;                   // the stage's layer: one behind that of kv and q
  std::span<const std::int32_t> positions;  // [tokens] places in the conversation, ascending
  const LayerKv* kv = nullptr;  // cache of layer - 1; its last `tokens` rows are the current tokens
  MatrixView q;                 // [tokens, q_dim] rotated queries of layer - 1
  float attention_scale = 1.0f;
  std::int64_t attention_window = 0;  // of layer - 1, as AttentionParams::window
  MatrixView hidden;                  // [tokens, model_dim] input of the stage's layer (needs_hidden() only)
};

class Scorer {
 public:
  virtual ~Scorer() = default;
  // True: scores depend on the stage's input hidden states. False: attention of the layer before suffices, so
  // dropped tokens need not even finish that layer.
  virtual bool needs_hidden() const = 0;
  // Layers whose attention is to be shown, in ascending order and before a stage right behind them is scored.
  virtual bool watches(std::int64_t) const { return false; }
  // `input` is that layer's: its cache, its queries.
  virtual void watch(std::int64_t, const ScorerInput&) {}
  // scores [tokens], higher is kept; also says how many tokens there are. May come out non-finite:
  // select_tokens() deals with it.
  virtual void score(const ScorerInput& input, std::span<float> scores) = 0;
  // Scores and chooses in one op of the backend, which nobody waits for; null where only score() will do.
  virtual std::unique_ptr<RowChoice> choose(const ScorerInput&, const StageCounts&) { return nullptr; }
};

// The scorer the policy names, followed by mix_recency() when the policy asks for it. `backend` must outlive
// it. Error(kBadArgument / kIo / kBadFormat) when a learned scorer's file is missing or does not fit.
// `model_dim` is the hidden size.
std::unique_ptr<Scorer> make_scorer(const TokenPolicy& policy, std::int64_t model_dim, Backend& backend);

}  // namespace winnow
