// The weights of a model, packed by a backend: bound by name, shapes checked against the architecture.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "backends/backend.h"
#include "formats/weight_source.h"
#include "model/architecture.h"
#include "model/model_part.h"

namespace winnow {

struct NormWeights {
  Buffer weight, bias;  // [model_dim] float32; bias may be empty
};
struct LinearWeights {
  std::unique_ptr<Weight> weight;
  Buffer bias;  // [out_features] float32, or empty
};

struct LayerWeights {
  NormWeights attention_norm, ffn_norm;
  NormWeights attention_post_norm, ffn_post_norm;  // empty unless the family has them
  Buffer q_norm, k_norm;                           // [head_dim] float32, or empty
  LinearWeights qkv;                               // [q_dim + 2 kv_dim, model_dim]
  LinearWeights attention_out;                     // [model_dim, q_dim]
  LinearWeights up;                                // [up_dim, model_dim]: gate | up, or up alone
  LinearWeights down;                              // [model_dim, ffn_dim]
  bool is_sliding = false;                         // has a sliding window
};

// Empty where the model has no rotary embedding, or one that follows the length (runtime/dynamic_rope.h).
struct RopeTables {
  RopeTable global;
  RopeTable sliding;  // of sliding layers; empty: they use the global one
};

// Shapes are those of the rank's part (part_of()).
struct ModelWeights {
  std::vector<LayerWeights> layers;  // of the model; those of other ranks are empty but for is_sliding
  NormWeights final_norm;            // as lm_head
  LinearWeights lm_head;             // [vocab, model_dim]; empty: with another rank
  std::unique_ptr<Weight>
      embedding;  // [model's vocab, model_dim] where the backend keeps embeddings; null: lm_head's
  RopeTables rope;
  std::int64_t bytes = 0;         // of all packed matrices of the part, in all their forms
  std::int64_t decode_bytes = 0;  // of what decoding a token reads of them
  bool has_decode_forms = true;   // all of them (Weight::has_decode_form)
};

// The name of the tensor that makes logits: the head's own where the file has one, else the embedding's.
const std::string& head_tensor(const WeightSource& source, const TensorNames& names);

// Whether `part` has the whole embedding table beside its rows of the head: it reads tokens with a backend
// that keeps embeddings, and its head is not that table.
bool keeps_table(const WeightSource& source, const Architecture& arch, const ModelPart& part,
                 const Backend& backend);

// Whether these columns of a tensor can be read as the file has them: they are whole blocks.
bool has_stored_columns(const WeightSource& source, const TensorInfo& tensor, Range columns);

// Reads and packs everything of `part`; the embedding table stays in the file unless the backend keeps
// embeddings. `progress` is told the share done (0..1). Error(kBadFormat) names a tensor that is missing or
// has another shape (expected and found).
ModelWeights load_weights(const WeightSource& source, const Architecture& arch, const ModelPart& part,
                          Backend& backend, const std::function<void(double)>& progress);

// Hidden states of `tokens`, [tokens, model_dim] float32; `first_position` matters to learned position
// embeddings only. Error(kBadArgument) for an id outside the vocabulary.
void embed(const ModelWeights& weights, const WeightSource& source, const Architecture& arch,
           Backend& backend, std::span<const std::int32_t> tokens, std::int64_t first_position,
           const MatrixView& hidden);

}  // namespace winnow
