// Trains the scorer of one stage on samples: mean squares and pairwise ranking, Adam, held-out validation,
// early stop. Knows nothing of models or files of samples.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "train/mlp.h"
#include "train/scorer_loss.h"
#include "train/scorer_samples.h"

namespace winnow {

struct ScorerTrainingSettings {
  std::int64_t epochs = 40, patience = 8;  // stops after so many epochs without a better validation
  std::int64_t windows_of_batch = 4;
  double rate = 1e-3, decay = 1e-2;  // the rate falls to a tenth along a half cosine
  ScoreLossWeights loss;
  double keep = 0.8;  // share of tokens kept where the validation counts what is lost
  std::uint64_t seed = 0;
};

// One stage's scorer and how far its training is: all that a checkpoint has to hold.
struct ScorerState {
  Mlp mlp, best;
  Adam adam;
  std::vector<float> input_mean, input_scale;  // inputs are (x - mean) x scale for `mlp`
  float target_mean = 0, target_scale = 1;     // and targets likewise
  std::int64_t epoch = 0, best_epoch = 0;
  double best_lost = 2;            // share of the validation targets' sum that is lost at `keep`, of `best`
  std::vector<std::string> curve;  // a line an epoch
  bool finished = false;
};

struct EpochLosses {
  ScoreLoss training;
  double validation_lost = 0, validation_correlation = 0;
};

class ScorerTraining {
 public:
  // One element a window; both have at least one, and all have `inputs` columns. Error(kBadArgument) for
  // inputs or targets that are not finite.
  ScorerTraining(Backend& backend, const ScorerTrainingSettings& settings, std::int64_t stage,
                 std::int64_t inputs, std::int64_t inner, std::vector<StageSamples> training,
                 std::vector<StageSamples> validation);

  // A fresh state, its inputs' mean and scale from the training samples.
  ScorerState start() const;
  // One epoch on. Error(kUnsupported), naming stage, epoch and step, when a loss is not finite: the state
  // passed in is then unchanged.
  EpochLosses run_epoch(ScorerState& state);
  // Validation of any scorer over raw inputs.
  EpochLosses validate(const ScorerState& state, const Mlp& mlp);

 private:
  void normalise(const ScorerState& state);
  void check_loss(double loss, std::int64_t epoch, std::size_t step) const;

  ScorerTrainingSettings settings_;
  std::int64_t stage_, inputs_, inner_;
  std::vector<StageSamples> training_, validation_;
  bool normalised_ = false;
  TrainOps ops_;
  MlpPass pass_;
};

// The state's best scorer over inputs as they come and with scores on the scale of the targets: the
// normalisations folded into its layers.
Mlp folded_scorer(const ScorerState& state);

}  // namespace winnow
