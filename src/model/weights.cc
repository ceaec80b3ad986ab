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
    // The largest matrix first: packing holds a second copy of it, and nothing else is there yet.
    load_head(weights);
    for (std::int64_t layer = 0; layer < arch_.layers; ++layer) {
      weights.layers.push_back(load_layer(layer));
      source_.drop_pages();
      report(static_cast<double>(layer + 1) / static_cast<double>(arch_.layers + 1));
    }
    weights.final_norm = norm(arch_.names.final_norm);
    load_rope(weights.rope);
    weights.bytes = bytes_;
    weights.decode_bytes = decode_bytes_;
    weights.has_decode_forms = has_decode_forms_;
    source_.drop_pages();
    report(1.0);
    return weights;
  }

 private:
  // Of the head and the embedding.
  void load_head(ModelWeights& weights) {
    const bool own_head = source_.find(arch_.names.lm_head) != nullptr;
    if (!own_head && !arch_.tied_embeddings) {
      fail(ErrorCode::kBadFormat, "{}: tensor {} is missing (and tie_word_embeddings is false)",
           source_.path(), arch_.names.lm_head);
    }
    weights.lm_head =
        linear({own_head ? arch_.names.lm_head : arch_.names.embedding}, {arch_.vocab}, arch_.model_dim);
    find(arch_.names.embedding, {arch_.vocab, arch_.model_dim});
    if (!arch_.names.position_embedding.empty()) {
      find(arch_.names.position_embedding, {arch_.context, arch_.model_dim});
    } else if (backend_.keeps_embeddings() && own_head) {
      weights.embedding = linear({arch_.names.embedding}, {arch_.vocab}, arch_.model_dim).weight;
    }
    source_.drop_pages();
  }

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
    std::vector<float> values(static_cast<std::size_t>(size));
    source_.read_rows(find(name, {size}), 0, 1, values);
    return to_backend(values);
  }

  Buffer to_backend(const std::vector<float>& values) const {
    const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(float));
    Buffer buffer = backend_.allocate(bytes);
    backend_.upload(values.data(), buffer.as<>(), bytes);
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

  // Empty unless all tensors are stored row by row.
  std::vector<StoredRows> stored_rows(const std::vector<const TensorInfo*>& tensors) const {
    std::vector<StoredRows> stored;
    for (const TensorInfo* tensor : tensors) {
      if (!source_.has_stored_rows(*tensor)) return {};
      stored.push_back({tensor->dtype, tensor->shape[0],
                        [this, tensor](std::int64_t begin, std::int64_t end, std::span<std::byte> out) {
                          source_.read_stored_rows(*tensor, begin, end, out);
                        }});
    }
    return stored;
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
    weights.weight = pack(parts, total, cols);
    bytes_ += weights.weight->bytes();
    decode_bytes_ += weights.weight->decode_bytes();
    has_decode_forms_ &= weights.weight->has_decode_form();
    if (biases == 0) return weights;
    std::vector<float> bias(static_cast<std::size_t>(total));
    std::span<float> rest(bias);
    for (std::size_t i = 0; i < names.size(); rest = rest.subspan(static_cast<std::size_t>(rows[i++]))) {
      source_.read_rows(find(bias_name(names[i]), {rows[i]}), 0, 1,
                        rest.first(static_cast<std::size_t>(rows[i])));
    }
    weights.bias = to_backend(bias);
    return weights;
  }

  std::unique_ptr<Weight> pack(const std::vector<const TensorInfo*>& parts, std::int64_t total,
                               std::int64_t cols) const {
    std::vector<UniformRows> noise;
    for (const TensorInfo* part : parts) {
      if (const auto made = source_.noise(*part))
        noise.push_back({part->shape[0], made->stream, made->scale});
    }
    if (noise.size() == parts.size()) return backend_.pack_uniform(cols, noise);
    const RowReader reader = [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
      std::int64_t first = 0;
      for (const TensorInfo* part : parts) {
        const std::int64_t rows = part->shape[0];
        const std::int64_t from = std::max(begin, first), to = std::min(end, first + rows);
        if (from < to) {
          source_.read_rows(*part, from - first, to - first,
                            out.subspan(static_cast<std::size_t>((from - begin) * cols),
                                        static_cast<std::size_t>((to - from) * cols)));
        }
        first += rows;
      }
    };
    return backend_.pack_stored(total, cols, reader, stored_rows(parts));
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
    if (arch_.rope_theta == 0 || arch_.rope_scaling.kind == RopeScalingKind::kDynamic) return;
    tables.global =
        make_rope_table(backend_, arch_.context, arch_.rotary_dim, arch_.rope_theta, arch_.rope_scaling);
    if (arch_.sliding_rope_theta == 0) return;
    tables.sliding = make_rope_table(backend_, arch_.context, arch_.rotary_dim, arch_.sliding_rope_theta, {});
  }

  const WeightSource& source_;
  const Architecture& arch_;
  Backend& backend_;
  const std::function<void(double)>& progress_;
  std::int64_t bytes_ = 0, decode_bytes_ = 0;
  bool has_decode_forms_ = true;
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

namespace {

// Rows of the embedding table, read from the file. `hidden` is host memory.
void embed_from_file(const WeightSource& source, const Architecture& arch,
                     std::span<const std::int32_t> tokens, std::int64_t first_position,
                     const MatrixView& hidden) {
  const auto dim = static_cast<std::size_t>(arch.model_dim);
  const TensorInfo& table = *source.find(arch.names.embedding);
  const TensorInfo* positions =
      arch.names.position_embedding.empty() ? nullptr : source.find(arch.names.position_embedding);
  const float scale = embedding_scale(arch, table.dtype);
  std::vector<float> position_row(positions != nullptr ? dim : 0);
  for (std::int64_t i = 0; i < hidden.rows; ++i) {
    const std::int64_t token = tokens[i];
    auto* row = hidden.row<float>(i);
    source.read_rows(table, token, token + 1, {row, dim});
    if (scale != 1.0f) std::transform(row, row + dim, row, [&](float value) { return scale * value; });
    if (positions == nullptr) continue;
    source.read_rows(*positions, first_position + i, first_position + i + 1, position_row);
    for (std::size_t d = 0; d < dim; ++d) row[d] += position_row[d];
  }
}

}  // namespace

void embed(const ModelWeights& weights, const WeightSource& source, const Architecture& arch,
           Backend& backend, std::span<const std::int32_t> tokens, std::int64_t first_position,
           const MatrixView& hidden) {
  check(hidden.rows == static_cast<std::int64_t>(tokens.size()) && hidden.cols == arch.model_dim,
        "embed: hidden does not fit");
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= arch.vocab) {
      fail(ErrorCode::kBadArgument, "token id {} is outside the model's vocabulary of {}", token, arch.vocab);
    }
  }
  if (backend.keeps_embeddings() && arch.names.position_embedding.empty()) {
    const Weight& table = weights.embedding ? *weights.embedding : *weights.lm_head.weight;
    const float scale = embedding_scale(arch, source.find(arch.names.embedding)->dtype);
    return backend.gather(table, tokens, scale, hidden);
  }
  if (backend.shares_host_memory()) return embed_from_file(source, arch, tokens, first_position, hidden);
  std::vector<float> row(static_cast<std::size_t>(arch.model_dim));
  for (std::int64_t i = 0; i < hidden.rows; ++i) {
    const MatrixView host{row.data(), DType::kF32, 1, arch.model_dim};
    embed_from_file(source, arch, tokens.subspan(static_cast<std::size_t>(i), 1), first_position + i, host);
    backend.upload(row.data(), hidden.row<void>(i), hidden.row_bytes());
  }
}

}  // namespace winnow
