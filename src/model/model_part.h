// ModelPart: what of a model one rank holds and computes. Alone: all of it.
//
// Split by tensors, every rank runs every layer on its own kv heads (with the query heads that share them)
// and its own columns of the feed-forward network; the two products that end in the residual stream are
// summed over the ranks. Split by layers, a rank runs a run of layers whole. docs/multi_gpu.md
#pragma once

#include <cstdint>
#include <vector>

#include "core/range.h"
#include "model/architecture.h"

namespace winnow {

enum class Split : std::uint8_t { kTensor, kLayers };

struct ModelPart {
  Range layers;                // the others are with other ranks
  Range heads, kv_heads, ffn;  // of these layers
  Range vocab;                 // rows of the head; none: no head here
  bool sums_whole = true;      // its products into the residual stream are whole, not summands
  bool adds_bias = true;       // to products that are summed over the ranks
  bool operator==(const ModelPart&) const = default;
};

ModelPart whole_model(const Architecture& arch);

// One part a rank. Error(kUnsupported) when there is not enough of the model for each of them, saying what
// would do.
std::vector<ModelPart> split_model(const Architecture& arch, Split split, int ranks);

// The sizes of a rank's own matrices, caches and activations: what the layers and estimates of memory go by.
Architecture part_of(const Architecture& arch, const ModelPart& part);

// Which of the ranks holds a layer: its own one, or rank 0 where all do.
int rank_of_layer(const std::vector<ModelPart>& parts, std::int64_t layer);

}  // namespace winnow
