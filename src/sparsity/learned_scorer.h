// The learned scorer: a small MLP for each stage, from a file that training wrote. make_scorer() calls this.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "sparsity/scorer.h"

namespace winnow {

// policy.scorer_file is a safetensors file (scorer_file.h). Version 1 has, for the stage before each layer L
// of the policy, F32 tensors
//   stage.L.fc1.weight [model_dim / 4, model_dim]   stage.L.fc1.bias [model_dim / 4]
//   stage.L.fc2.weight [1, model_dim / 4]           stage.L.fc2.bias [1]
// and score = fc2(gelu(fc1(hidden))), gelu exact. Version 2 says what its MLPs look at
// (query_aware_scorer.h). Stages that the policy lacks may be in the file too.
std::unique_ptr<Scorer> make_learned_scorer(const TokenPolicy& policy, std::int64_t model_dim,
                                            Backend& backend);

// Error(kBadArgument) when the policy's scorer file says that it was made for a model of another shape.
// Policies without such a file pass.
void check_scorer_model(const TokenPolicy& policy, const std::string& shape_hash);

}  // namespace winnow
