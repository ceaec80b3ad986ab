// Architecture: a model family and its sizes, as data. Read from a checkpoint's config, checked once, then
// trusted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "formats/weight_source.h"
#include "model/rope.h"

namespace winnow {

// Names of a family's tensors; "{}" is the layer. An empty name: the family has no such tensor.
struct TensorNames {
  std::string embedding, position_embedding, final_norm, lm_head;
  std::string attention_norm, q, k, v, qkv, attention_out, ffn_norm, gate, up,
      down;                                        // a family has q, k, v or qkv
  std::string q_norm, k_norm;                      // of every head of q and k
  std::string attention_post_norm, ffn_post_norm;  // of what attention and ffn add to the hidden states
};

struct Architecture {
  std::string family;  // config's model_type: "llama", "qwen2", "gpt2", ...
  std::string name;    // the model's own name, or the file's
  TensorNames names;

  std::int64_t layers = 0, model_dim = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn_dim = 0;
  // context: positions winnow runs: the config's, times the factor of dynamic rope scaling.
  std::int64_t vocab = 0, context = 0;

  NormKind norm = NormKind::kRms;
  float norm_epsilon = 0;
  ActivationKind activation = ActivationKind::kSiluGated;
  bool tied_embeddings = false;
  bool scaled_embeddings = false;  // by sqrt(model_dim)
  float attention_scale = 0;       // of q . k, usually 1 / sqrt(head_dim)

  double rope_theta = 0;        // 0: learned position embeddings instead
  std::int64_t rotary_dim = 0;  // dimensions of a head that are rotated, even; the others are not
  RopeScaling rope_scaling;

  // Layers with a sliding window see the last `sliding_window` positions, their own included, and no others.
  // 0 and empty: there are none.
  std::int64_t sliding_window = 0;
  std::vector<bool> sliding_layers;  // [layers]
  double sliding_rope_theta = 0;     // of these layers, whose frequencies are not scaled; 0: as all layers

  std::int64_t q_dim() const { return heads * head_dim; }
  std::int64_t kv_dim() const { return kv_heads * head_dim; }
  std::int64_t qkv_dim() const { return q_dim() + 2 * kv_dim(); }
  bool gated() const { return is_gated(activation); }
  bool has_post_norms() const { return !names.attention_post_norm.empty(); }
  bool is_sliding(std::int64_t layer) const { return sliding_window > 0 && sliding_layers[layer]; }
  std::int64_t up_dim() const { return gated() ? 2 * ffn_dim : ffn_dim; }
  // Elements of one decoder layer's matrices, and of all matrices the model multiplies by.
  std::int64_t layer_elements() const { return model_dim * (qkv_dim() + q_dim() + up_dim() + ffn_dim); }
  std::int64_t matrix_elements() const { return layers * layer_elements() + vocab * model_dim; }
  // Multiply-adds x 2 of the linear layers of one decoder layer, for one token.
  double layer_linear_flops() const { return 2.0 * static_cast<double>(layer_elements()); }
  // Distinguishes models whose policies must not be mixed up.
  std::string shape_hash() const;
};

// Error(kUnsupported) for a family or config value winnow cannot run, naming it; Error(kBadFormat) for sizes
// that make no sense.
Architecture read_architecture(const WeightSource& source);

}  // namespace winnow
