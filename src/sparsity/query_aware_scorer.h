// The learned scorer that looks at attention (files of version 2): what the last queries pay to each token,
// head by head, in layers before the stage, and where the token is; its hidden state only if the file says
// so. make_learned_scorer() calls this.
#pragma once

#include <memory>

#include "sparsity/scorer.h"
#include "sparsity/scorer_file.h"

namespace winnow {

// Error(kBadArgument) for a file made for another hidden size, or without a stage of the policy.
std::unique_ptr<Scorer> make_query_aware_scorer(const TokenPolicy& policy, const ScorerFile& file,
                                                std::int64_t model_dim, Backend& backend);

}  // namespace winnow
