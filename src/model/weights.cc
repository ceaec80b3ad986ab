#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
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

// Rows of a tensor that go into a packed matrix.
struct Rows {
  std::string tensor;
  std::int64_t of = 0;  // rows the tensor has
  Range taken;
};

// Of every row of `row_bytes`, `out_bytes` from byte `from` on.
void copy_columns(std::span<const std::byte> rows, std::int64_t row_bytes, std::int64_t from,
                  std::span<std::byte> out, std::int64_t out_bytes) {
  for (std::int64_t to = 0, row = from; to < std::ssize(out); to += out_bytes, row += row_bytes) {
    std::memcpy(out.data() + to, rows.data() + row, static_cast<std::size_t>(out_bytes));
  }
}

// Binds tensors by name and packs what the part has of them.
class Loader {
 public:
  Loader(const WeightSource& source, const Architecture& arch, const ModelPart& part, Backend& backend,
         const std::function<void(double)>& progress)
      : source_(source), arch_(arch), part_(part), backend_(backend), progress_(progress) {}

  ModelWeights load() {
    ModelWeights weights;
    // The largest matrix first: packing holds a second copy of it, and nothing else is there yet.
    load_head(weights);
    for (std::int64_t layer = 0; layer < arch_.layers; ++layer) {
      weights.layers.push_back(part_.layers.contains(layer) ? load_layer(layer) : LayerWeights{});
      weights.layers.back().is_sliding = arch_.is_sliding(layer);
      source_.drop_pages();
      report(static_cast<double>(layer + 1) / static_cast<double>(arch_.layers + 1));
    }
    if (part_.vocab.count > 0) weights.final_norm = norm(arch_.names.final_norm);
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
    const std::string& head = head_tensor(source_, arch_.names);
    if (head == arch_.names.embedding && !arch_.tied_embeddings) {
      fail(ErrorCode::kBadFormat, "{}: tensor {} is missing (and tie_word_embeddings is false)",
           source_.path(), arch_.names.lm_head);
    }
    const Range all_columns{0, arch_.model_dim}, all_rows{0, arch_.vocab};
    if (part_.vocab.count > 0)
      weights.lm_head = linear({{head, arch_.vocab, part_.vocab}}, arch_.model_dim, all_columns);
    find(arch_.names.embedding, {arch_.vocab, arch_.model_dim});
    if (!arch_.names.position_embedding.empty()) {
      find(arch_.names.position_embedding, {arch_.context, arch_.model_dim});
    } else if (keeps_table(source_, arch_, part_, backend_)) {
      weights.embedding =
          linear({{arch_.names.embedding, arch_.vocab, all_rows}}, arch_.model_dim, all_columns).weight;
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
    return to_backend(read_vector(name, size));
  }

  std::vector<float> read_vector(const std::string& name, std::int64_t size) const {
    std::vector<float> values(static_cast<std::size_t>(size));
    source_.read_rows(find(name, {size}), 0, 1, values);
    return values;
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

  // One packed matrix whose rows are those taken of the named tensors, one below the other, and of these the
  // columns `taken` of `columns`. A bias exists for all of them or for none.
  LinearWeights linear(const std::vector<Rows>& parts, std::int64_t columns, Range taken,
                       bool with_bias = true) {
    int biases = 0;
    for (const Rows& part : parts) {
      find(part.tensor, {part.of, columns});
      biases += source_.find(bias_name(part.tensor)) != nullptr;
    }
    if (biases != 0 && biases != static_cast<int>(parts.size())) {
      fail(ErrorCode::kBadFormat, "{}: only some of {} and its neighbours have a bias", source_.path(),
           parts[0].tensor);
    }
    LinearWeights weights;
    weights.weight = pack(parts, columns, taken);
    bytes_ += weights.weight->bytes();
    decode_bytes_ += weights.weight->decode_bytes();
    has_decode_forms_ &= weights.weight->has_decode_form();
    if (biases == 0 || !with_bias) return weights;
    std::vector<float> bias;
    for (const Rows& part : parts) {
      const std::vector<float> whole = read_vector(bias_name(part.tensor), part.of);
      bias.insert(bias.end(), whole.begin() + part.taken.begin, whole.begin() + part.taken.end());
    }
    weights.bias = to_backend(bias);
    return weights;
  }

  std::unique_ptr<Weight> pack(const std::vector<Rows>& parts, std::int64_t columns, Range taken) const {
    if (const auto noise = noise_of(parts, columns, taken); !noise.empty()) {
      return backend_.pack_uniform(taken.count, noise);
    }
    std::int64_t total = 0;
    for (const Rows& part : parts) total += part.taken.count;
    const RowReader reader = [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
      std::int64_t first = 0;
      for (const Rows& part : parts) {
        const std::int64_t from = std::max(begin, first), to = std::min(end, first + part.taken.count);
        if (from < to) {
          read_floats(part, columns, taken, from - first, to - first,
                      out.subspan(static_cast<std::size_t>((from - begin) * taken.count),
                                  static_cast<std::size_t>((to - from) * taken.count)));
        }
        first += part.taken.count;
      }
    };
    return backend_.pack_stored(total, taken.count, reader, stored_rows(parts, columns, taken));
  }

  // Rows [begin, end) of those taken.
  void read_floats(const Rows& part, std::int64_t columns, Range taken, std::int64_t begin, std::int64_t end,
                   std::span<float> out) const {
    const TensorInfo& tensor = *source_.find(part.tensor);
    const std::int64_t first = part.taken.begin + begin, count = end - begin;
    if (taken.count == columns) return source_.read_rows(tensor, first, first + count, out);
    std::vector<float> rows(static_cast<std::size_t>(count * columns));
    source_.read_rows(tensor, first, first + count, rows);
    copy_columns(std::as_bytes(std::span(rows)), 4 * columns, 4 * taken.begin, std::as_writable_bytes(out),
                 4 * taken.count);
  }

  // Empty unless all of it is noise.
  std::vector<UniformRows> noise_of(const std::vector<Rows>& parts, std::int64_t columns, Range taken) const {
    std::vector<UniformRows> noise;
    for (const Rows& part : parts) {
      const auto made = source_.noise(*source_.find(part.tensor));
      if (!made) return {};
      noise.push_back({.rows = part.taken.count,
                       .stream = made->stream,
                       .scale = made->scale,
                       .first = part.taken.begin * columns + taken.begin,
                       .stride = columns});
    }
    return noise;
  }

  // Empty unless all tensors are stored row by row and the columns taken are whole blocks.
  std::vector<StoredRows> stored_rows(const std::vector<Rows>& parts, std::int64_t columns,
                                      Range taken) const {
    std::vector<StoredRows> stored;
    for (const Rows& part : parts) {
      const TensorInfo* tensor = source_.find(part.tensor);
      if (!has_stored_columns(source_, *tensor, taken)) return {};
      stored.push_back({tensor->dtype, part.taken.count,
                        [this, tensor, columns, taken, rows = part.taken](
                            std::int64_t begin, std::int64_t end, std::span<std::byte> out) {
                          read_stored(*tensor, columns, taken, rows.begin + begin, rows.begin + end, out);
                        }});
    }
    return stored;
  }

  void read_stored(const TensorInfo& tensor, std::int64_t columns, Range taken, std::int64_t begin,
                   std::int64_t end, std::span<std::byte> out) const {
    if (taken.count == columns) return source_.read_stored_rows(tensor, begin, end, out);
    const std::int64_t row_bytes = dtype_bytes(tensor.dtype, columns);
    std::vector<std::byte> rows(static_cast<std::size_t>((end - begin) * row_bytes));
    source_.read_stored_rows(tensor, begin, end, rows);
    copy_columns(rows, row_bytes, dtype_bytes(tensor.dtype, taken.begin), out,
                 dtype_bytes(tensor.dtype, taken.count));
  }

  LayerWeights load_layer(std::int64_t layer) {
    const auto name = [&](const std::string& pattern) { return fmt::format(fmt::runtime(pattern), layer); };
    const TensorNames& names = arch_.names;
    LayerWeights weights;
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
    const Range q = part_.heads.times(arch_.head_dim), kv = part_.kv_heads.times(arch_.head_dim);
    const Range model_dim{0, arch_.model_dim};
    weights.qkv = linear(qkv_rows(name, q, kv), arch_.model_dim, model_dim);
    weights.attention_out =
        linear({{name(names.attention_out), arch_.model_dim, model_dim}}, arch_.q_dim(), q, part_.adds_bias);
    std::vector<Rows> up{{name(names.up), arch_.ffn_dim, part_.ffn}};
    if (arch_.gated()) up.insert(up.begin(), {name(names.gate), arch_.ffn_dim, part_.ffn});
    weights.up = linear(up, arch_.model_dim, model_dim);
    weights.down =
        linear({{name(names.down), arch_.model_dim, model_dim}}, arch_.ffn_dim, part_.ffn, part_.adds_bias);
    return weights;
  }

  // q | k | v, of three tensors or of one that holds all three.
  template <class Name>
  std::vector<Rows> qkv_rows(const Name& name, Range q, Range kv) const {
    const TensorNames& names = arch_.names;
    if (names.qkv.empty()) {
      return {{name(names.q), arch_.q_dim(), q},
              {name(names.k), arch_.kv_dim(), kv},
              {name(names.v), arch_.kv_dim(), kv}};
    }
    const std::string all = name(names.qkv);
    const std::int64_t k = arch_.q_dim(), v = k + arch_.kv_dim();
    return {{all, arch_.qkv_dim(), q},
            {all, arch_.qkv_dim(), {k + kv.begin, kv.count}},
            {all, arch_.qkv_dim(), {v + kv.begin, kv.count}}};
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
  const ModelPart& part_;
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

const std::string& head_tensor(const WeightSource& source, const TensorNames& names) {
  return source.find(names.lm_head) != nullptr ? names.lm_head : names.embedding;
}

bool keeps_table(const WeightSource& source, const Architecture& arch, const ModelPart& part,
                 const Backend& backend) {
  const bool head_is_table =
      head_tensor(source, arch.names) == arch.names.embedding && part.vocab == Range{0, arch.vocab};
  return backend.keeps_embeddings() && arch.names.position_embedding.empty() && part.layers.begin == 0 &&
         !head_is_table;
}

bool has_stored_columns(const WeightSource& source, const TensorInfo& tensor, Range columns) {
  const std::int64_t block = dtype_info(tensor.dtype).block_elements;
  return source.has_stored_rows(tensor) && columns.begin % block == 0 && columns.count % block == 0;
}

ModelWeights load_weights(const WeightSource& source, const Architecture& arch, const ModelPart& part,
                          Backend& backend, const std::function<void(double)>& progress) {
  return Loader(source, arch, part, backend, progress).load();
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
