// Files of a training run: checkpoints that hold everything needed to go on with the same bits, and the
// scorers themselves.
#pragma once

#include <map>
#include <string>

#include "sparsity/scorer_file.h"
#include "train/end_to_end.h"
#include "train/scorer_training.h"

namespace winnow {

void save_scorer_state(const std::string& path, const ScorerState& state);
// Error(kBadFormat) when the file is damaged or its scorer has another shape.
ScorerState load_scorer_state(const std::string& path, std::int64_t inputs, std::int64_t inner);

void save_end_to_end(const std::string& path, const EndToEndState& state);
// `start` says which scorers there are and their shapes.
EndToEndState load_end_to_end(const std::string& path, const std::map<std::int64_t, Mlp>& start);

// A file of version 2 (sparsity/scorer_file.h).
void save_scorers(const std::string& path, const std::map<std::int64_t, Mlp>& scorers,
                  const ScorerDescription& description);
// The scorers of all stages of such a file. Error(kBadArgument) for version 1, or a model or stages other
// than `expected`'s.
std::map<std::int64_t, Mlp> load_scorers(const std::string& path, const ScorerDescription& expected);

}  // namespace winnow
