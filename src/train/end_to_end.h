// End-to-end training: scorers prune a window's context while the frozen model reads it, and learn from what
// that does to the model's predictions of the tokens behind it. Called by training.cc; starts from scorers
// that were trained on samples.
//
// At a stage the tokens with the highest score + logistic noise are kept, as many as the keep ratio says:
// exactly, not on average. Forward, the mask is hard, so the model computes what it would after pruning;
// backward, its slope is that of sigmoid((score + noise - threshold) / temperature), the straight-through
// relaxation (Jang et al., arXiv 1611.01144). Keys of dropped tokens leave the softmax, which is normalised
// over the others (TrainOps, MaskedAttentionParams).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "eval/text_random.h"
#include "train/mlp.h"
#include "train/model_pass.h"
#include "train/scorer_loss.h"
#include "train/scorer_samples.h"
#include "train/training_data.h"

namespace winnow {

enum class EndToEndLoss : std::uint8_t { kKl, kCrossEntropy };

struct EndToEndSettings {
  std::int64_t steps = 0;
  EndToEndLoss loss = EndToEndLoss::kKl;  // KL(dense || pruned), or the cross-entropy of the text
  double rate = 2e-4, decay = 0.0;
  double temperature = 1.0,
         noise = 0.5;  // noise: scale of the logistic noise, in units of the scores' spread, falling to 0
  double scores_weight = 0.1;  // of the squares and ranking terms against the dense model's targets
  ScoreLossWeights score_loss;
  std::uint64_t seed = 0;
};

struct EndToEndState {
  std::map<std::int64_t, Mlp> scorers, best;  // by stage
  std::map<std::int64_t, Adam> adam;
  std::int64_t step = 0;
  double start_loss = -1, best_loss = -1;  // on the validation windows: the mean loss with hard masks and no
                                           // noise; -1: not measured yet
  std::vector<std::string> curve;
};

class EndToEnd {
 public:
  EndToEnd(ModelPass& pass, const EndToEndSettings& settings, const SampleSettings& samples);
  ~EndToEnd();

  static void check_loss(double loss, std::int64_t step);  // Error(kUnsupported) naming the step

  // One step on. Error(kUnsupported) naming the step when the loss is not finite; the state is then
  // unchanged. Gives the loss of the window.
  double step(EndToEndState& state, const TrainingWindow& window);
  // Not a number when a scorer gives scores that are not.
  double validate(const std::map<std::int64_t, Mlp>& scorers, const std::vector<TrainingWindow>& windows);

 private:
  struct StageRun;

  double run(const std::map<std::int64_t, Mlp>& scorers, const TrainingWindow& window, double noise,
             std::uint64_t seed, bool gradient);
  std::vector<std::vector<float>> mask_gradients() const;  // of the last run, by stage, [tokens]
  std::vector<std::int64_t> decide(StageRun& run, const Mlp& scorer, double noise, TextRandom& random);

  ModelPass& pass_;
  EndToEndSettings settings_;
  SampleSettings samples_;
  MlpPass mlp_pass_;
  std::vector<StageRun> runs_;  // of the last window, by stage
  std::vector<float> teacher_;
  std::vector<std::vector<float>> targets_;
};

}  // namespace winnow
