// Samples that scorers learn from: for each stage, what a scorer may look at (sparsity/scorer_inputs.h) and
// what it should find.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "sparsity/policy.h"
#include "sparsity/scorer_inputs.h"
#include "train/token_targets.h"

namespace winnow {

// Targets far below the mean are alike: what is lost with them does not show, and their order is noise.
constexpr double kTargetFloor = 0.05;

struct StageSamples {
  std::vector<float> inputs;   // [tokens, columns]
  std::vector<float> targets;  // [tokens], ln(target / mean target of the tokens there + kTargetFloor)
};

// Of one window, by stage. Inputs and targets of a token stand in the same row of the same stage.
struct WindowSamples {
  bool retrieval = false;
  std::vector<StageSamples> stages;
};

struct SampleSettings {
  TokenPolicy policy;  // stages, keep ratios, protected tokens: those that no stage drops are no samples
  std::map<std::int64_t, ScorerInputs> inputs;  // by stage
  TargetKind target = TargetKind::kAttentionMax;
  std::int64_t tokens_of_window =
      512;             // sampled at a stage: half of them those with the highest targets; 0: every token
  double noise = 0.5;  // of what earlier stages kept, see collect_samples()

  std::vector<std::int64_t> stages() const;  // their layers, ascending
};

// What scorers learn: ln(target / mean + kTargetFloor) of the tokens at a stage, the mean being that of those
// which it may drop.
std::vector<float> relative_logarithms(const std::vector<float>& targets, const TokenPolicy& policy);

// Reads the window twice: densely, for the targets, and once more while the stages drop tokens, so that a
// scorer learns from what it will see: the tokens that earlier stages left, and their attention among
// themselves. Earlier stages keep the highest targets, give or take logistic noise of `noise` times the
// spread of their logarithms. Everything is a function of window, settings and `seed`.
WindowSamples collect_samples(ModelPass& pass, const TrainingWindow& window, const SampleSettings& settings,
                              std::uint64_t seed);

// As files: complete or not there.
void save_samples(const std::string& path, const WindowSamples& samples, const SampleSettings& settings);
// Those of one stage. Error(kBadFormat) when the file is not what save_samples() wrote with so many columns.
StageSamples load_samples(const std::string& path, std::int64_t stage, std::int64_t columns);

}  // namespace winnow
