// InputCatcher: what scorers look at (sparsity/scorer_inputs.h), caught during a ModelPass in which some
// context tokens may be dropped.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "train/model_pass.h"
#include "train/scorer_samples.h"

namespace winnow {

class InputCatcher {
 public:
  // `arch` and `settings` must outlive it.
  InputCatcher(const Architecture& arch, std::int64_t context, const SampleSettings& settings);

  // To be called by the hooks of the forward pass.
  void before_layer(std::int64_t layer, const MatrixView& hidden);
  VisitProbs probs_of(std::int64_t layer);
  ModelPass::ForwardOptions hooks();

  // From the next layer on only these context tokens are there, ascending.
  void keep(std::vector<std::int64_t> alive) { alive_ = std::move(alive); }
  const std::vector<std::int64_t>& alive() const { return alive_; }

  // What the stage's scorer sees of the tokens alive, [alive, columns].
  std::vector<float> rows(std::int64_t stage) const;

 private:
  void add_window(const ProbsTile& tile, std::vector<float>& to, std::int64_t first_query, float share) const;

  const Architecture& arch_;
  std::int64_t context_;
  const SampleSettings& settings_;
  std::vector<std::int64_t> alive_;
  std::map<std::int64_t, std::vector<float>> attention_,
      hidden_;  // by layer [heads, context], by stage [context, model_dim]
};

}  // namespace winnow
