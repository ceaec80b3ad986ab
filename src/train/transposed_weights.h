// The matrices of a model transposed, for gradients: dx = dy W is a linear layer whose weight is W^T. A
// second copy of all packed matrices (in the backend's precision), made once. Used by ModelPass only.
#pragma once

#include <memory>
#include <vector>

#include "backends/backend.h"
#include "model/weights.h"

namespace winnow {

struct TransposedLayer {
  std::unique_ptr<Weight> qkv, attention_out, up, down;
};

struct TransposedWeights {
  std::vector<TransposedLayer> layers;
  std::unique_ptr<Weight> lm_head;
  std::int64_t bytes = 0;
};

// W^T as the backend multiplies by it: its rows are what W gives for unit vectors, so this works for every
// backend, file format and layout. Takes the time of a pass over in_features tokens.
std::unique_ptr<Weight> transpose(Backend& backend, const Weight& weight);

TransposedWeights transpose(Backend& backend, const ModelWeights& weights);

}  // namespace winnow
