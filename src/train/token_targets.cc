#include "train/token_targets.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace winnow {
namespace {

using PerLayer = std::vector<std::vector<float>>;  // [layers][context]

constexpr struct {
  TargetKind kind;
  const char* name;
} kNames[] = {{TargetKind::kAttentionMax, "attention"},
              {TargetKind::kAttentionMean, "attention-mean"},
              {TargetKind::kGradient, "gradient"},
              {TargetKind::kKvzap, "kvzap"}};

// The queries that look for the tokens after the context: the context's last token, and those tokens but for
// their last.
bool asks(const TrainingWindow& window, std::int64_t query) {
  return query >= window.context - 1 && query + 1 < std::ssize(window.tokens);
}

float norm(const float* x, std::int64_t n) { return std::sqrt(std::inner_product(x, x + n, x, 0.0f)); }

// |W_o v_j| for each head and token: W_o times the values of one head at a time, the others zero.
std::vector<float> value_norms(const ModelPass& pass, std::int64_t layer) {
  const Engine& engine = pass.engine();
  const Architecture& arch = engine.arch();
  Backend& backend = engine.backend();
  const MatrixView qkv = pass.heads_of(layer);
  const DType compute = backend.compute_dtype();
  const std::int64_t rows = qkv.rows, dim = arch.head_dim, group = arch.heads / arch.kv_heads;
  const Buffer values = backend.allocate(rows * arch.q_dim() * 4),
               narrow = backend.allocate(rows * dtype_bytes(compute, arch.q_dim()));
  const Buffer result = backend.allocate(rows * arch.model_dim * 4);
  const MatrixView wide{values.as<>(), DType::kF32, rows, arch.q_dim()},
      x{narrow.as<>(), compute, rows, arch.q_dim()};
  const MatrixView y{result.as<>(), DType::kF32, rows, arch.model_dim};
  std::vector<float> norms(static_cast<std::size_t>(arch.heads * rows));
  for (std::int64_t head = 0; head < arch.heads; ++head) {
    std::memset(values.as<>(), 0, static_cast<std::size_t>(values.bytes()));
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* v = qkv.row<float>(row) + arch.q_dim() + arch.kv_dim() + head / group * dim;
      std::copy(v, v + dim, wide.row<float>(row) + head * dim);
    }
    backend.convert(wide, x);
    backend.linear({.x = x, .weight = engine.weights().layers[layer].attention_out.weight.get(), .y = y});
    backend.row_norms(
        y, std::span(norms).subspan(static_cast<std::size_t>(head * rows), static_cast<std::size_t>(rows)));
  }
  return norms;
}

// Folds what the asking queries pay into one number for each head and token.
class AttentionTargets {
 public:
  AttentionTargets(ModelPass& pass, const TrainingWindow& window, TargetKind kind,
                   const ModelPass::ForwardOptions& also)
      : pass_(pass), window_(window), kind_(kind), also_(also) {}

  PerLayer run() {
    const Architecture& arch = pass_.engine().arch();
    ModelPass::ForwardOptions options;
    options.keep_activations = false;
    options.before_layer = [&](std::int64_t layer, const MatrixView& hidden) {
      if (layer > 0) finish(layer - 1);
      if (also_.before_layer) also_.before_layer(layer, hidden);
      folded_.assign(static_cast<std::size_t>(arch.heads * window_.context), 0.0f);
      query_norms_.resize(window_.tokens.size());
      for (std::int64_t row = 0; row < hidden.rows; ++row)
        query_norms_[row] = norm(hidden.row<float>(row), hidden.cols);
    };
    options.probs_of = [&](std::int64_t layer) {
      const VisitProbs other = also_.probs_of ? also_.probs_of(layer) : VisitProbs();
      return VisitProbs([this, other](const ProbsTile& tile) {
        if (other) other(tile);
        fold(tile);
      });
    };
    pass_.forward(window_.tokens, options);
    finish(arch.layers - 1);
    return std::move(per_layer_);
  }

 private:
  void fold(const ProbsTile& tile) {
    float* to = folded_.data() + tile.head * window_.context;
    const std::int64_t keys = std::min(tile.keys, window_.context - tile.first_key);
    for (std::int64_t r = 0; r < tile.queries; ++r) {
      if (!asks(window_, tile.first_query + r)) continue;
      const float* row = tile.probs + r * tile.keys;
      if (kind_ == TargetKind::kKvzap) {
        const float scale = 1.0f / query_norms_[tile.first_query + r];
        for (std::int64_t j = 0; j < keys; ++j)
          to[tile.first_key + j] = std::max(to[tile.first_key + j], row[j] * scale);
      } else {
        for (std::int64_t j = 0; j < keys; ++j) to[tile.first_key + j] += row[j];
      }
    }
  }

  void finish(std::int64_t layer) {
    const std::int64_t heads = pass_.engine().arch().heads, context = window_.context,
                       rows = std::ssize(window_.tokens);
    std::vector<float> result(static_cast<std::size_t>(context)), values;
    if (kind_ == TargetKind::kKvzap) values = value_norms(pass_, layer);
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t j = 0; j < context; ++j) {
        const float own = folded_[head * context + j];
        switch (kind_) {
          case TargetKind::kAttentionMean: result[j] += own / static_cast<float>(heads); break;
          case TargetKind::kKvzap: result[j] = std::max(result[j], own * values[head * rows + j]); break;
          default: result[j] = std::max(result[j], own); break;
        }
      }
    }
    per_layer_.push_back(std::move(result));
  }

  ModelPass& pass_;
  const TrainingWindow& window_;
  TargetKind kind_;
  const ModelPass::ForwardOptions& also_;
  std::vector<float> folded_, query_norms_;  // [heads, context], [tokens]
  PerLayer per_layer_;
};

PerLayer gradient_saliency(ModelPass& pass, const TrainingWindow& window,
                           const std::vector<std::int64_t>& stages, const ModelPass::ForwardOptions& also) {
  pass.forward(window.tokens, also);
  pass.loss({});
  PerLayer result(stages.size());
  ModelPass::BackwardOptions options;
  options.first_layer = stages.front();
  options.at_input = [&](const LayerView& view) {
    const auto stage = std::find(stages.begin(), stages.end(), view.layer);
    if (stage == stages.end()) return;
    std::vector<float>& saliency = result[static_cast<std::size_t>(stage - stages.begin())];
    for (std::int64_t row = 0; row < window.context; ++row) {
      const float *x = view.value.row<float>(row), *gradient = view.gradient.row<float>(row);
      saliency.push_back(std::abs(std::inner_product(x, x + view.value.cols, gradient, 0.0f)));
    }
  };
  pass.backward(options);
  return result;
}

}  // namespace

std::optional<TargetKind> parse_target_kind(const std::string& name) {
  for (const auto& entry : kNames) {
    if (name == entry.name) return entry.kind;
  }
  return std::nullopt;
}

const char* target_name(TargetKind kind) {
  for (const auto& entry : kNames) {
    if (entry.kind == kind) return entry.name;
  }
  return "";
}

std::vector<std::vector<float>> token_targets(ModelPass& pass, const TrainingWindow& window,
                                              const std::vector<std::int64_t>& stages, TargetKind kind,
                                              const ModelPass::ForwardOptions& also) {
  if (kind == TargetKind::kGradient) return gradient_saliency(pass, window, stages, also);
  PerLayer per_layer = AttentionTargets(pass, window, kind, also).run();
  const std::int64_t layers = std::ssize(per_layer);
  for (std::int64_t layer = layers - 2; layer >= 0; --layer) {  // over this layer and all later ones
    for (std::size_t j = 0; j < per_layer[layer].size(); ++j) {
      float& own = per_layer[layer][j];
      const float later = per_layer[layer + 1][j];
      own = kind == TargetKind::kAttentionMean ? own + later : std::max(own, later);
    }
  }
  PerLayer result;
  for (const std::int64_t stage : stages) {
    result.push_back(per_layer[stage]);
    if (kind != TargetKind::kAttentionMean) continue;
    for (float& value : result.back()) value /= static_cast<float>(layers - stage);
  }
  return result;
}

}  // namespace winnow
