// The learned scorer: a small MLP over a token's hidden state, one for each stage. make_scorer() calls this.
#pragma once

#include <cstdint>
#include <memory>

#include "sparsity/scorer.h"

namespace winnow {

// policy.scorer_file is a safetensors file that has, for the stage before each layer L of the policy, F32
// tensors
//   stage.L.fc1.weight [model_dim / 4, model_dim]   stage.L.fc1.bias [model_dim / 4]
//   stage.L.fc2.weight [1, model_dim / 4]           stage.L.fc2.bias [1]
// and score = fc2(gelu(fc1(hidden))), gelu exact. Stages that the policy lacks may be in the file too.
std::unique_ptr<Scorer> make_learned_scorer(const TokenPolicy& policy, std::int64_t model_dim,
                                            Backend& backend);

}  // namespace winnow
