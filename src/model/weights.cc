#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "core/check.h"
#include "core/error.h"

namespace winnow {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

// Binds tensors by name and packs them.
class Loader {
 public:
  Loader(const WeightSource& source, const Architecture& arch, Backend& backend,
         const std::function<void(double)>& progress)
      : source_(source), arch_(arch), backend_(backend), progress_(progress) {}

  ModelWeights load() {
    ModelWeights weights;
    for (std::int64_t layer = 0; layer < arch_.layers; ++layer) {
      weights.layers.push_back(load_layer(layer));
      report(static_cast<double>(layer + 1) / static_cast<double>(arch_.layers + 1));
    }
    weights.final_norm = norm(arch_.names.final_norm);
    const bool own_head = source_.find(arch_.names.lm_head) != nullptr;
    if (!own_head && !arch_.tied_embeddings) {
      fail(ErrorCode::kBadFormat, "{}: tensor {} is missing (and tie_word_embeddings is false)",
           source_.path(), arch_.names.lm_head);
    }
    weights.lm_head =
        linear({own_head ? arch_.names.lm_head : arch_.names.embedding}, {arch_.vocab}, arch_.model_dim);
    find(arch_.names.embedding, {arch_.vocab, arch_.model_dim});
    if (!arch_.names.position_embedding.empty())
      find(arch_.names.position_embedding, {arch_.context, arch_.model_dim});
    load_rope(weights.rope);
    weights.bytes = bytes_;
    source_.drop_pages();
    report(1.0);
    return weights;
  }

 private:
  void report(double share) const {
    if (progress_) progress_(share);
  }

  const TensorInfo& find(const std::string& name, const std::vector<std::int64_t>& shape) const {
    const TensorInfo* tensor = source_.find(name);
    if (tensor == nullptr) fail(ErrorCode::kBadFormat, "{}: tensor {} is missing", source_.path(), name);
    if (tensor->shape != shape) {
      fail(ErrorCode::kBadFormat, "{}: tensor {} has shape {}, expected {}", source_.path(), name,
           shape_text(tensor->shape), shape_text(shape));
    }
    return *tensor;
  }

  Buffer vector(const std::string& name, std::int64_t size) const {
    Buffer buffer = backend_.allocate(size * 4);
    source_.read_rows(find(name, {size}), 0, 1, {buffer.as<float>(), static_cast<std::size_t>(size)});
    return buffer;
  }

  static std::string bias_name(const std::string& weight) {
    constexpr std::string_view kSuffix = "weight";
    check(weight.ends_with(kSuffix), "a weight's name ends in weight");
    return weight.substr(0, weight.size() - kSuffix.size()) + "bias";
  }

  NormWeights norm(const std::string& name) const {
    NormWeights weights{vector(name, arch_.model_dim), {}};
    if (arch_.norm == NormKind::kLayer) weights.bias = vector(bias_name(name), arch_.model_dim);
    return weights;
  }

  // One packed matrix whose rows are those of the named tensors, one below the other. A bias exists for all
  // of them or for none.
  LinearWeights linear(const std::vector<std::string>& names, const std::vector<std::int64_t>& rows,
                       std::int64_t cols) {
    std::vector<const TensorInfo*> parts;
    std::int64_t total = 0;
    int biases = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
      parts.push_back(&find(names[i], {rows[i], cols}));
      total += rows[i];
      biases += source_.find(bias_name(names[i])) != nullptr;
    }
    if (biases != 0 && biases != static_cast<int>(names.size())) {
      fail(ErrorCode::kBadFormat, "{}: only some of {} and its neighbours have a bias", source_.path(),
           names[0]);
    }
    LinearWeights weights;
    weights.weight =
        backend_.pack(total, cols, [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
          std::int64_t first = 0;
          for (std::size_t i = 0; i < parts.size(); first += rows[i++]) {
            const std::int64_t from = std::max(begin, first), to = std::min(end, first + rows[i]);
            if (from >= to) continue;
            source_.read_rows(*parts[i], from - first, to - first,
                              out.subspan(static_cast<std::size_t>((from - begin) * cols),
                                          static_cast<std::size_t>((to - from) * cols)));
          }
        });
    bytes_ += weights.weight->bytes();
    if (biases == 0) return weights;
    weights.bias = backend_.allocate(total * 4);
    float* bias = weights.bias.as<float>();
    for (std::size_t i = 0; i < names.size(); bias += rows[i++]) {
      source_.read_rows(find(bias_name(names[i]), {rows[i]}), 0, 1,
                        {bias, static_cast<std::size_t>(rows[i])});
    }
    return weights;
  }

  LayerWeights load_layer(std::int64_t layer) {
    const auto name = [&](const std::string& pattern) { return fmt::format(fmt::runtime(pattern), layer); };
    const TensorNames& names = arch_.names;
    LayerWeights weights;
    weights.is_sliding = arch_.is_sliding(layer);
    weights.attention_norm = norm(name(names.attention_norm));
    weights.ffn_norm = norm(name(names.ffn_norm));
    if (!names.q_norm.empty()) {
      weights.q_norm = vector(name(names.q_norm), arch_.head_dim);
      weights.k_norm = vector(name(names.k_norm), arch_.head_dim);
    }
    if (arch_.has_post_norms()) {
      weights.attention_post_norm = norm(name(names.attention_post_norm));
      weights.ffn_post_norm = norm(name(names.ffn_post_norm));
    }
    weights.qkv = names.qkv.empty() ? linear({name(names.q), name(names.k), name(names.v)},
                                             {arch_.q_dim(), arch_.kv_dim(), arch_.kv_dim()}, arch_.model_dim)
                                    : linear({name(names.qkv)}, {arch_.qkv_dim()}, arch_.model_dim);
    weights.attention_out = linear({name(names.attention_out)}, {arch_.model_dim}, arch_.q_dim());
    weights.up = arch_.gated() ? linear({name(names.gate), name(names.up)}, {arch_.ffn_dim, arch_.ffn_dim},
                                        arch_.model_dim)
                               : linear({name(names.up)}, {arch_.ffn_dim}, arch_.model_dim);
    weights.down = linear({name(names.down)}, {arch_.model_dim}, arch_.ffn_dim);
    return weights;
  }

  void load_rope(RopeTables& tables) const {
    if (arch_.rope_theta == 0) return;
    tables.global =
        make_rope_table(backend_, arch_.context, arch_.rotary_dim, arch_.rope_theta, arch_.rope_scaling);
    if (arch_.sliding_rope_theta == 0) return;
    tables.sliding = make_rope_table(backend_, arch_.context, arch_.rotary_dim, arch_.sliding_rope_theta, {});
  }

  const WeightSource& source_;
  const Architecture& arch_;
  Backend& backend_;
  const std::function<void(double)>& progress_;
  std::int64_t bytes_ = 0;
};

// `value` with `bits` significant bits, to nearest even.
float round_to_bits(float value, int bits) {
  int exponent = 0;
  const float mantissa = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, bits)), exponent - bits);
}

// transformers multiplies embeddings by sqrt(model_dim) in the type of the table.
float embedding_scale(const Architecture& arch, DType table) {
  if (!arch.scaled_embeddings) return 1.0f;
  const float scale = std::sqrt(static_cast<float>(arch.model_dim));
  if (table == DType::kBF16) return round_to_bits(scale, 8);
  return table == DType::kF16 ? round_to_bits(scale, 11) : scale;
}

}  // namespace

ModelWeights load_weights(const WeightSource& source, const Architecture& arch, Backend& backend,
                          const std::function<void(double)>& progress) {
  return Loader(source, arch, backend, progress).load();
}

void embed(const WeightSource& source, const Architecture& arch, std::span<const std::int32_t> tokens,
           std::int64_t first_position, const MatrixView& hidden) {
  check(hidden.rows == static_cast<std::int64_t>(tokens.size()) && hidden.cols == arch.model_dim,
        "embed: hidden does not fit");
  const auto dim = static_cast<std::size_t>(arch.model_dim);
  const TensorInfo& table = *source.find(arch.names.embedding);
  const TensorInfo* positions =
      arch.names.position_embedding.empty() ? nullptr : source.find(arch.names.position_embedding);
  const float scale = embedding_scale(arch, table.dtype);
  std::vector<float> position_row(positions != nullptr ? dim : 0);
  for (std::int64_t i = 0; i < hidden.rows; ++i) {
    const std::int64_t token = tokens[i];
    if (token < 0 || token >= arch.vocab) {
      fail(ErrorCode::kBadArgument, "token id {} is outside the model's vocabulary of {}", token, arch.vocab);
    }
    auto* row = hidden.row<float>(i);
    source.read_rows(table, token, token + 1, {row, dim});
    if (scale != 1.0f) std::transform(row, row + dim, row, [&](float value) { return scale * value; });
    if (positions == nullptr) continue;
    source.read_rows(*positions, first_position + i, first_position + i + 1, position_row);
    for (std::size_t d = 0; d < dim; ++d) row[d] += position_row[d];
  }
}

}  // namespace winnow
