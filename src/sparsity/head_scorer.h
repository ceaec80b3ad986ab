// The attention scorer of stages that name heads: few heads know what the prompt's last queries look for, and
// some of them stand layers before the stage (docs/quality.md).
#pragma once

#include <memory>

#include "sparsity/scorer.h"

namespace winnow {

// For a policy with at least one stage that names heads. A token's score at such a stage is the highest that
// any of the stage's heads gives it; what a head gives is the attention that the last queries pay to the
// token, max-pooled over its neighbours, over the head's highest score among tokens that are not protected.
// It is taken when the prefill passes the head's layer, from the tokens that are left there, and kept until
// the last stage that asks for it. Stages that name no heads are scored by `others`.
std::unique_ptr<Scorer> make_head_scorer(const TokenPolicy& policy, std::unique_ptr<Scorer> others,
                                         Backend& backend);

}  // namespace winnow
