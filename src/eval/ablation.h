// Ablations: variants of a policy that differ from it in one respect each.
#pragma once

#include <string>
#include <vector>

#include "eval/eval_policy.h"

namespace winnow {

// "stages", "positions", "protection", "window".
std::vector<std::string> ablation_names();

// The variants, named "POLICY~no16", "POLICY~compact", "POLICY~tail0.5", "POLICY~window32":
//   stages      each stage left out
//   positions   original and compact
//   protection  protect_tail x 0, 0.5, 1, 2 (the last token always stays: min is at least 1)
//   window      16, 32, 64, 128, 256 (scorer attention)
// Error(kBadArgument) for an unknown name, and where there is nothing to vary.
std::vector<EvalPolicy> ablate(const EvalPolicy& policy, const std::string& name);

}  // namespace winnow
