#include "train/model_pass.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "core/check.h"
#include "core/error.h"
#include "model/decoder_layer.h"

namespace winnow {
namespace {

constexpr std::int64_t kLogitRows = 128;  // logits at a time

// A token drawn from softmax(logits), the same for the same seed.
std::int32_t draw_token(const float* logits, std::int64_t vocab, std::uint64_t seed) {
  const double largest = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (std::int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - largest);
  double left = sum * static_cast<double>(std::mt19937_64(seed)() >> 11) * 0x1p-53;
  for (std::int64_t i = 0; i < vocab; ++i) {
    left -= std::exp(logits[i] - largest);
    if (left < 0) return static_cast<std::int32_t>(i);
  }
  return static_cast<std::int32_t>(vocab - 1);
}

const float* data_or_null(const Buffer& buffer) { return buffer.bytes() == 0 ? nullptr : buffer.as<float>(); }

}  // namespace

// What the gradients of a layer need beside its input.
struct ModelPass::Layer {
  Buffer qkv, heads;  // [rows, qkv_dim] before and after the rotation (before it only where heads have norms)
  Buffer attended;    // [rows, q_dim]
  Buffer middle;      // [rows, model_dim] after attention
  Buffer up;          // [rows, up_dim]
  std::vector<float> log_sums;
};

ModelPass::ModelPass(const Engine& engine, bool gradients, std::int64_t keep_bytes)
    : engine_(engine),
      arch_(engine.arch()),
      backend_(engine.backend()),
      ops_(0),
      gradients_(gradients),
      keep_bytes_(keep_bytes) {
  if (!backend_.shares_host_memory()) {
    fail(ErrorCode::kUnsupported, "training runs on the CPU: --device cpu");
  }
  if (backend_.precision() == Precision::kInt8) {
    fail(ErrorCode::kUnsupported,
         "training needs products that can be differentiated: --precision bf16 or f32, not int8");
  }
  if (arch_.rope_scaling.kind == RopeScalingKind::kDynamic)
    dynamic_rope_ = std::make_unique<DynamicRope>(arch_, backend_);
  if (gradients_) transposed_ = transpose(backend_, engine.weights());
}

ModelPass::~ModelPass() = default;

HeadSizes ModelPass::head_sizes() const { return {arch_.heads, arch_.kv_heads, arch_.head_dim}; }

MatrixView ModelPass::view(const Buffer& buffer, std::int64_t cols) const {
  return {buffer.as<>(), DType::kF32, rows_, cols};
}

ModelPass::Layer& ModelPass::activations(std::int64_t layer) const {
  return *layers_[keeps_all_ ? layer : 0];
}

MatrixView ModelPass::heads_of(std::int64_t layer) const {
  return view(activations(layer).heads, arch_.qkv_dim());
}

std::int64_t ModelPass::bytes() const {
  std::int64_t total = transposed_.bytes;
  for (const Buffer& buffer : hidden_) total += buffer.bytes();
  for (const auto& layer : layers_) {
    for (const Buffer* buffer : {&layer->qkv, &layer->heads, &layer->attended, &layer->middle, &layer->up})
      total += buffer->bytes();
  }
  return total;
}

void ModelPass::allocate(std::int64_t rows, bool keep_activations) {
  const std::int64_t layer_floats = 2 * arch_.model_dim +
                                    arch_.qkv_dim() * (arch_.names.q_norm.empty() ? 1 : 2) + arch_.q_dim() +
                                    arch_.up_dim();
  const bool keeps_all = keep_activations && arch_.layers * rows * layer_floats * 4 <= keep_bytes_;
  const bool fits = rows <= capacity_ && (!keep_activations || (kept_ && keeps_all == keeps_all_));
  rows_ = rows;
  if (fits) return;
  keeps_all_ = keeps_all;
  kept_ = keep_activations;
  capacity_ = rows;
  const auto buffer = [&](std::int64_t cols) { return Buffer::host(rows * cols * 4); };
  hidden_.clear();
  layers_.clear();
  for (std::int64_t i = 0; i < (keep_activations ? arch_.layers + 1 : 1); ++i)
    hidden_.push_back(buffer(arch_.model_dim));
  for (std::int64_t i = 0; i < (keeps_all ? arch_.layers : 1); ++i) {
    auto layer = std::make_unique<Layer>();
    if (!arch_.names.q_norm.empty()) layer->qkv = buffer(arch_.qkv_dim());
    layer->heads = buffer(arch_.qkv_dim());
    layer->attended = buffer(arch_.q_dim());
    layer->middle = buffer(arch_.model_dim);
    layer->up = buffer(arch_.up_dim());
    layers_.push_back(std::move(layer));
  }
  normed_ = buffer(arch_.model_dim);
  activated_ = buffer(arch_.ffn_dim);
  branch_ = buffer(arch_.model_dim);
  gradient_ = buffer(arch_.model_dim);
  narrow_ = buffer(std::max(arch_.q_dim(), arch_.model_dim));
  narrowed_ = buffer(arch_.model_dim);
  wide_ = buffer(std::max(arch_.qkv_dim(), arch_.up_dim()));
}

void ModelPass::set_keep(std::vector<float> keep) {
  check(std::ssize(keep) == rows_, "training: a number for each token");
  keeps_.push_back({next_layer_, std::move(keep), std::vector<float>(static_cast<std::size_t>(rows_))});
}

ModelPass::Keep* ModelPass::keep_at(std::int64_t layer) {
  Keep* found = nullptr;
  for (Keep& keep : keeps_) {
    if (keep.from_layer <= layer) found = &keep;
  }
  return found;
}

void ModelPass::linear(const Weight& weight, const float* bias, const MatrixView& x, const MatrixView& y,
                       bool accumulate) const {
  const DType compute = backend_.compute_dtype();
  MatrixView input = x;
  if (compute != DType::kF32) {
    const std::int64_t bytes = x.rows * dtype_bytes(compute, x.cols);
    if (compute_x_.bytes() < bytes) compute_x_ = backend_.allocate(bytes);
    input = {compute_x_.as<>(), compute, x.rows, x.cols};
    backend_.convert(x, input);
  }
  backend_.linear({.x = input, .weight = &weight, .bias = bias, .y = y, .accumulate = accumulate});
}

void ModelPass::linear(const LinearWeights& weights, const MatrixView& x, const MatrixView& y,
                       bool accumulate) const {
  linear(*weights.weight, data_or_null(weights.bias), x, y, accumulate);
}

void ModelPass::norm_backward(const NormWeights& weights, const MatrixView& x, const MatrixView& dy,
                              const MatrixView& dx, bool accumulate) const {
  ops_.norm_backward({.kind = arch_.norm,
                      .x = x,
                      .dy = dy,
                      .dx = dx,
                      .weight = weights.weight.as<float>(),
                      .epsilon = arch_.norm_epsilon,
                      .accumulate = accumulate});
}

RopeParams ModelPass::rope_params(std::int64_t layer) const {
  const LayerWeights& weights = engine_.weights().layers[layer];
  const RopeTables& tables = dynamic_rope_ ? dynamic_rope_->tables() : engine_.weights().rope;
  const bool own_rope = weights.is_sliding && tables.sliding.rotary_dim > 0;
  const MatrixView heads = heads_of(layer);
  const bool normed = weights.q_norm.bytes() > 0;
  return {.sizes = head_sizes(),
          .rope = own_rope ? &tables.sliding : &tables.global,
          .q_norm = data_or_null(weights.q_norm),
          .k_norm = data_or_null(weights.k_norm),
          .norm_epsilon = arch_.norm_epsilon,
          .x = normed ? view(activations(layer).qkv, arch_.qkv_dim()) : heads,
          .y = heads};
}

MaskedAttentionParams ModelPass::attention_params(std::int64_t layer) const {
  Layer& own = activations(layer);
  const Keep* keep = const_cast<ModelPass*>(this)->keep_at(layer);
  own.log_sums.resize(static_cast<std::size_t>(arch_.heads * rows_));
  return {.sizes = head_sizes(),
          .qkv = heads_of(layer),
          .scale = arch_.attention_scale,
          .window = arch_.is_sliding(layer) ? arch_.sliding_window : 0,
          .keep = keep == nullptr ? std::span<const float>() : keep->values,
          .out = view(own.attended, arch_.q_dim()),
          .log_sums = own.log_sums};
}

// The layer's input -> its heads, their attention, and the hidden states after it.
void ModelPass::compute_attention(std::int64_t layer, const VisitProbs* visit) {
  const LayerWeights& weights = engine_.weights().layers[layer];
  Layer& own = activations(layer);
  const MatrixView hidden = view(hidden_[kept_ ? layer : 0], arch_.model_dim),
                   normed = view(normed_, arch_.model_dim);
  apply_norm(arch_, backend_, weights.attention_norm, hidden, normed);
  const RopeParams rope = rope_params(layer);
  linear(weights.qkv, normed, rope.x);
  ops_.rope(rope);
  MaskedAttentionParams attention = attention_params(layer);
  attention.visit = visit;
  ops_.attention(attention);
  const MatrixView middle = view(own.middle, arch_.model_dim), branch = view(branch_, arch_.model_dim);
  std::copy_n(hidden.row<float>(0), rows_ * arch_.model_dim, middle.row<float>(0));
  if (!arch_.has_post_norms()) return linear(weights.attention_out, attention.out, middle, true);
  linear(weights.attention_out, attention.out, branch);
  apply_norm(arch_, backend_, weights.attention_post_norm, branch, middle, true);
}

// The hidden states after attention -> the widened ones, and with `with_output` branch_ = what the ffn gives
// before any norm of it.
void ModelPass::compute_ffn(std::int64_t layer, bool with_output) {
  const LayerWeights& weights = engine_.weights().layers[layer];
  Layer& own = activations(layer);
  const MatrixView middle = view(own.middle, arch_.model_dim), normed = view(normed_, arch_.model_dim),
                   up = view(own.up, arch_.up_dim());
  apply_norm(arch_, backend_, weights.ffn_norm, middle, normed);
  linear(weights.up, normed, up);
  if (!with_output) return;
  const MatrixView activated = view(activated_, arch_.ffn_dim);
  backend_.activation({.kind = arch_.activation, .x = up, .y = activated});
  linear(weights.down, activated, view(branch_, arch_.model_dim));
}

void ModelPass::forward(std::span<const TokenId> tokens, const ForwardOptions& options) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count == 0 || count > arch_.context) {
    fail(ErrorCode::kBadArgument, "a training window of {} tokens does not fit the context of {}", count,
         arch_.context);
  }
  allocate(count, options.keep_activations);
  tokens_.assign(tokens.begin(), tokens.end());
  keeps_.clear();
  if (dynamic_rope_) dynamic_rope_->prepare(0, count);
  embed(engine_.weights(), engine_.source(), arch_, backend_, tokens, 0, view(hidden_[0], arch_.model_dim));
  const std::int64_t layers = options.layers < 0 ? arch_.layers : options.layers;
  for (next_layer_ = 0; next_layer_ < layers; ++next_layer_) {
    const std::int64_t layer = next_layer_;
    const MatrixView out = view(hidden_[kept_ ? layer + 1 : 0], arch_.model_dim);
    if (options.before_layer) options.before_layer(layer, view(hidden_[kept_ ? layer : 0], arch_.model_dim));
    const VisitProbs visit = options.probs_of ? options.probs_of(layer) : VisitProbs();
    compute_attention(layer, visit ? &visit : nullptr);
    compute_ffn(layer, true);
    const MatrixView branch = view(branch_, arch_.model_dim);
    std::copy_n(activations(layer).middle.as<float>(), rows_ * arch_.model_dim, out.row<float>(0));
    if (arch_.has_post_norms()) {
      apply_norm(arch_, backend_, engine_.weights().layers[layer].ffn_post_norm, branch, out, true);
    } else {
      float* sum = out.row<float>(0);
      const float* added = branch.row<float>(0);
      for (std::int64_t i = 0; i < rows_ * arch_.model_dim; ++i) sum[i] += added[i];
    }
  }
}

double ModelPass::loss(const WindowLoss& options) {
  const std::int64_t first = options.first_row, end = rows_ - 1, count = end - first;
  check(first >= 0 && count > 0 && next_layer_ == arch_.layers,
        "loss: predictions that count, after all layers");
  check(!options.gradient || (gradients_ && kept_),
        "loss: gradients need the transposed weights and the activations");
  const MatrixView hidden = view(hidden_[kept_ ? arch_.layers : 0], arch_.model_dim),
                   gradient = view(gradient_, arch_.model_dim);
  std::fill_n(gradient.row<float>(0), rows_ * arch_.model_dim, 0.0f);
  const Buffer logits = backend_.allocate(std::min(kLogitRows, count) * arch_.vocab * 4);
  if (options.keep_logits != nullptr)
    options.keep_logits->resize(static_cast<std::size_t>(count * arch_.vocab));
  double total = 0;
  for (std::int64_t begin = first; begin < end; begin += kLogitRows) {
    const std::int64_t rows = std::min(kLogitRows, end - begin), offset = (begin - first) * arch_.vocab;
    const MatrixView chunk{logits.as<>(), DType::kF32, rows, arch_.vocab},
        normed = view(normed_, arch_.model_dim).slice(begin, rows);
    apply_norm(arch_, backend_, engine_.weights().final_norm, hidden.slice(begin, rows), normed);
    linear(engine_.weights().lm_head, normed, chunk);
    if (options.keep_logits != nullptr)
      std::copy_n(logits.as<float>(), rows * arch_.vocab, options.keep_logits->data() + offset);
    const std::vector<float> weights(static_cast<std::size_t>(rows), 1.0f / static_cast<float>(count));
    std::vector<float> losses(static_cast<std::size_t>(rows));
    MatrixView teacher;
    if (options.teacher != nullptr)
      teacher = {const_cast<float*>(options.teacher->data()) + offset, DType::kF32, rows, arch_.vocab};
    std::vector<std::int32_t> targets(tokens_.begin() + begin + 1, tokens_.begin() + begin + 1 + rows);
    for (std::int64_t r = 0; options.own_targets && r < rows; ++r) {
      targets[r] = draw_token(chunk.row<float>(r), arch_.vocab,
                              *options.own_targets * 1000003 + static_cast<std::uint64_t>(begin + r));
    }
    ops_.loss({.logits = chunk,
               .targets = targets,
               .weights = weights,
               .teacher = options.teacher == nullptr ? nullptr : &teacher,
               .losses = losses});
    for (const float loss : losses) total += loss;
    if (!options.gradient) continue;
    linear(*transposed_.lm_head, nullptr, chunk, normed, false);
    norm_backward(engine_.weights().final_norm, hidden.slice(begin, rows), normed,
                  gradient.slice(begin, rows), false);
  }
  return total / static_cast<double>(count);
}

void ModelPass::backward(const BackwardOptions& options) {
  check(gradients_ && kept_ && next_layer_ == arch_.layers, "backward: after forward and loss");
  for (std::int64_t layer = arch_.layers - 1; layer >= options.first_layer; --layer) {
    if (!keeps_all_) {
      compute_attention(layer, nullptr);
      compute_ffn(layer, arch_.has_post_norms());
    }
    ffn_backward(layer);
    attention_backward(layer, options);
    if (options.at_input)
      options.at_input({layer, view(hidden_[layer], arch_.model_dim), view(gradient_, arch_.model_dim)});
  }
}

// gradient_: of the layer's output -> of the hidden states after attention.
void ModelPass::ffn_backward(std::int64_t layer) {
  const LayerWeights& weights = engine_.weights().layers[layer];
  const TransposedLayer& transposed = transposed_.layers[layer];
  const Layer& own = activations(layer);
  const MatrixView gradient = view(gradient_, arch_.model_dim), normed = view(narrowed_, arch_.model_dim);
  const MatrixView activated = view(activated_, arch_.ffn_dim), wide = view(wide_, arch_.up_dim());
  MatrixView branch_gradient = gradient;
  if (arch_.has_post_norms()) {
    if (keeps_all_) compute_ffn(layer, true);
    branch_gradient = view(narrow_, arch_.model_dim);
    norm_backward(weights.ffn_post_norm, view(branch_, arch_.model_dim), gradient, branch_gradient, false);
  }
  linear(*transposed.down, nullptr, branch_gradient, activated, false);
  ops_.activation_backward(
      {.kind = arch_.activation, .x = view(own.up, arch_.up_dim()), .dy = activated, .dx = wide});
  linear(*transposed.up, nullptr, wide, normed, false);
  norm_backward(weights.ffn_norm, view(own.middle, arch_.model_dim), normed, gradient, true);
}

// gradient_: of the hidden states after attention -> of the layer's input.
void ModelPass::attention_backward(std::int64_t layer, const BackwardOptions& options) {
  const LayerWeights& weights = engine_.weights().layers[layer];
  const TransposedLayer& transposed = transposed_.layers[layer];
  const Layer& own = activations(layer);
  const MatrixView gradient = view(gradient_, arch_.model_dim), normed = view(narrowed_, arch_.model_dim);
  const MatrixView attended = view(own.attended, arch_.q_dim()), wide = view(wide_, arch_.qkv_dim());
  MatrixView branch_gradient = gradient;
  if (arch_.has_post_norms()) {
    const MatrixView branch = view(branch_, arch_.model_dim);
    linear(weights.attention_out, attended, branch);
    norm_backward(weights.attention_post_norm, branch, gradient, normed, false);
    branch_gradient = normed;
  }
  const MatrixView attended_gradient = view(narrow_, arch_.q_dim());
  linear(*transposed.attention_out, nullptr, branch_gradient, attended_gradient, false);
  if (options.at_attention) options.at_attention({layer, attended, attended_gradient});
  Keep* keep = keep_at(layer);
  ops_.attention_backward({.forward = attention_params(layer),
                           .dout = attended_gradient,
                           .dqkv = wide,
                           .dkeep = keep == nullptr ? std::span<float>() : std::span<float>(keep->gradient)});
  ops_.rope_backward({.forward = rope_params(layer), .gradient = wide});
  linear(*transposed.qkv, nullptr, wide, normed, false);
  norm_backward(weights.attention_norm, view(hidden_[layer], arch_.model_dim), normed, gradient, true);
}

}  // namespace winnow
