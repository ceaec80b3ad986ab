// Targets of scorers: how much each token of a window's context matters from a stage on, by what the model
// does with it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/model_pass.h"
#include "train/training_data.h"

namespace winnow {

enum class TargetKind : std::uint8_t {
  kAttentionMax,   // attention that the tokens after the context pay: sum over them, maximum over heads and
                   // over the stage's layer and later ones
  kAttentionMean,  // the same, mean over heads and layers
  kGradient,  // |sum over hidden of gradient x activation| at the stage's input, of the cross-entropy of the
              // whole window (SDTP)
  kKvzap,  // largest a_ij |W_o v_j| / |h_i| over the tokens i after the context, over heads and layers from
           // the stage on (arXiv 2601.07891)
};
// "attention", "attention-mean", "gradient", "kvzap"; nullopt for anything else.
std::optional<TargetKind> parse_target_kind(const std::string& name);
const char* target_name(TargetKind kind);
inline bool needs_gradients(TargetKind kind) { return kind == TargetKind::kGradient; }

// For each of `stages` (layers, ascending) a number for each context token, 0 or more. The hooks of `also`
// see the same forward pass.
std::vector<std::vector<float>> token_targets(ModelPass& pass, const TrainingWindow& window,
                                              const std::vector<std::int64_t>& stages, TargetKind kind,
                                              const ModelPass::ForwardOptions& also);

}  // namespace winnow
