// Samples that scorers learn from: for each stage, what a scorer may look at (sparsity/scorer_inputs.h) and
// what it should find.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "sparsity/scorer_inputs.h"
#include "train/token_targets.h"

namespace winnow {

struct StageSamples {
  std::vector<float> inputs;   // [tokens, columns]
  std::vector<float> targets;  // [tokens], ln of the token's target relative to the mean target of the window
};

// Of one window, by stage. Inputs and targets of a token stand in the same row of the same stage.
struct WindowSamples {
  bool retrieval = false;
  std::vector<StageSamples> stages;
};

struct SampleSettings {
  std::vector<std::int64_t> stages;             // layers, ascending
  std::map<std::int64_t, ScorerInputs> inputs;  // by stage
  TargetKind target = TargetKind::kAttentionMax;
  std::int64_t tokens_of_window =
      512;                        // sampled: half of them those with the highest targets; 0: every token
  std::int64_t protect_head = 4;  // tokens that no stage drops are no samples
  double protect_tail = 0.1;
};

// Reads the window densely. The sampled tokens are a function of window, settings and `seed`.
WindowSamples collect_samples(ModelPass& pass, const TrainingWindow& window, const SampleSettings& settings,
                              std::uint64_t seed);

// As files: complete or not there.
void save_samples(const std::string& path, const WindowSamples& samples, const SampleSettings& settings);
// Those of one stage. Error(kBadFormat) when the file is not what save_samples() wrote with so many columns.
StageSamples load_samples(const std::string& path, std::int64_t stage, std::int64_t columns);

}  // namespace winnow
