// ModelPass: one window of tokens forward through a model and back, with respect to activations. Used by the
// stages of training (docs/training.md) and by whoever needs sensitivities (calibrate). Weights are frozen.
//
// Activations are float32; matrix products run in the engine's precision. What the backward pass needs is
// kept from the forward pass where it fits into `keep_bytes`; else only each layer's input is, and a layer is
// computed again when its turn comes: the same bits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backends/train_ops.h"
#include "runtime/dynamic_rope.h"
#include "runtime/engine.h"
#include "train/transposed_weights.h"

namespace winnow {

// What of a window's predictions counts. Row i predicts token i + 1.
struct WindowLoss {
  std::int64_t first_row = 0;  // rows before it do not count
  const std::vector<float>* teacher =
      nullptr;  // [rows that count, vocab] logits: KL(teacher || model) instead of cross-entropy
  std::vector<float>* keep_logits = nullptr;  // receives [rows that count, vocab]
  // A seed: in place of the text's tokens, tokens drawn from the model's own predictions (Fisher
  // information).
  std::optional<std::uint64_t> own_targets = {};
  bool gradient = true;  // false: backward() cannot follow
};

struct LayerView {
  std::int64_t layer = 0;
  MatrixView value, gradient;  // one row a token, float32
};

class ModelPass {
 public:
  static constexpr std::int64_t kKeepBytes = std::int64_t{1} << 30;

  // Transposes the weights unless `gradients` is false: backward() and loss gradients are programming errors
  // then. Error(kUnsupported) for a device whose memory the host cannot read, and for int8 products.
  explicit ModelPass(const Engine& engine, bool gradients = true, std::int64_t keep_bytes = kKeepBytes);
  ~ModelPass();

  struct ForwardOptions {
    // Before each layer: may look at its input and set_keep(). May be empty.
    std::function<void(std::int64_t layer, const MatrixView& hidden)> before_layer;
    // The visitor for a layer's attention (or an empty one); may be empty.
    std::function<VisitProbs(std::int64_t layer)> probs_of;
    std::int64_t layers = -1;      // only so many; -1: all
    bool keep_activations = true;  // false: backward() cannot follow
  };
  // Error(kBadArgument) for tokens outside the vocabulary or more than the context. Forgets the keys set
  // before.
  void forward(std::span<const TokenId> tokens, const ForwardOptions& options);
  // From the next layer that forward() computes on, how much each key counts (TrainOps,
  // MaskedAttentionParams), [tokens].
  void set_keep(std::vector<float> keep);

  // Mean loss over the rows that count, after a forward pass through all layers.
  double loss(const WindowLoss& options);

  struct BackwardOptions {
    std::function<void(const LayerView&)> at_input;  // a layer's input and the gradient of the loss by it
    std::function<void(const LayerView&)>
        at_attention;  // what a layer's heads give (before the output projection) and its gradient
    std::int64_t first_layer = 0;  // layers before it are left out
  };
  // Backward from the last loss().
  void backward(const BackwardOptions& options);
  // Gradient of the loss by the numbers of the i-th set_keep(), [tokens], summed over the layers it holds
  // for. After backward().
  std::span<const float> keep_gradient(std::size_t i) const { return keeps_[i].gradient; }

  // Of the forward pass: rotated q | k | v of a layer, kept or that of the last layer computed.
  MatrixView heads_of(std::int64_t layer) const;
  const Engine& engine() const { return engine_; }
  const TrainOps& ops() const { return ops_; }
  HeadSizes head_sizes() const;
  std::int64_t tokens() const { return rows_; }
  std::int64_t bytes() const;  // of activations and transposed weights

 private:
  struct Layer;  // activations of one layer
  struct Keep {
    std::int64_t from_layer;
    std::vector<float> values, gradient;
  };

  void allocate(std::int64_t rows, bool keep_activations);
  void compute_attention(std::int64_t layer, const VisitProbs* visit);
  void compute_ffn(std::int64_t layer, bool with_output);
  void attention_backward(std::int64_t layer, const BackwardOptions& options);
  void ffn_backward(std::int64_t layer);
  MaskedAttentionParams attention_params(std::int64_t layer) const;
  RopeParams rope_params(std::int64_t layer) const;
  void linear(const Weight& weight, const float* bias, const MatrixView& x, const MatrixView& y,
              bool accumulate) const;
  void linear(const LinearWeights& weights, const MatrixView& x, const MatrixView& y,
              bool accumulate = false) const;
  void norm_backward(const NormWeights& weights, const MatrixView& x, const MatrixView& dy,
                     const MatrixView& dx, bool accumulate) const;
  Keep* keep_at(std::int64_t layer);
  Layer& activations(std::int64_t layer) const;
  MatrixView view(const Buffer& buffer, std::int64_t cols) const;

  const Engine& engine_;
  const Architecture& arch_;
  Backend& backend_;
  TrainOps ops_;
  bool gradients_;
  std::int64_t keep_bytes_;
  TransposedWeights transposed_;
  std::unique_ptr<DynamicRope> dynamic_rope_;  // null: the engine's tables
  std::int64_t rows_ = 0, capacity_ = 0;
  bool keeps_all_ = false, kept_ = false;
  std::int64_t next_layer_ = 0;
  std::vector<TokenId> tokens_;
  std::vector<Buffer> hidden_;                  // [layers + 1] inputs of the layers and the last one's output
  std::vector<std::unique_ptr<Layer>> layers_;  // [layers], or [1] where they are computed again
  std::vector<Keep> keeps_;
  Buffer normed_, activated_, branch_, gradient_, narrow_, wide_, narrowed_;  // scratch of one window
  mutable Buffer compute_x_;                                                  // x in the compute type
};

}  // namespace winnow
