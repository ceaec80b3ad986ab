#include "model/weight_sizes.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "backends/weight_forms.h"
#include "model/weights.h"

namespace winnow {
namespace {

// Rows that are taken of a tensor.
struct Rows {
  std::string tensor;
  std::int64_t count = 0;
};

class PartSizes {
 public:
  PartSizes(const WeightSource& source, const Architecture& arch, const ModelPart& part,
            const Backend& backend)
      : source_(source),
        arch_(arch),
        part_(part),
        backend_(backend),
        forms_(dynamic_cast<const WeightForms*>(&backend)) {}

  LoadedBytes sum() {
    add_head();
    for (std::int64_t layer = part_.layers.begin; layer < part_.layers.end(); ++layer) add_layer(layer);
    if (arch_.rope_theta != 0) {
      const std::int64_t tables = arch_.sliding_rope_theta == 0 ? 1 : 2;
      bytes_.rope = tables * arch_.context * arch_.rotary_dim * static_cast<std::int64_t>(sizeof(float));
    }
    return bytes_;
  }

 private:
  void add_head() {
    const TensorNames& names = arch_.names;
    const Range model_dim{0, arch_.model_dim};
    if (part_.vocab.count > 0) add({{head_tensor(source_, names), part_.vocab.count}}, model_dim);
    if (keeps_table(source_, arch_, part_, backend_)) add({{names.embedding, arch_.vocab}}, model_dim);
  }

  void add_layer(std::int64_t layer) {
    const auto name = [&](const std::string& pattern) { return fmt::format(fmt::runtime(pattern), layer); };
    const TensorNames& names = arch_.names;
    const Range model_dim{0, arch_.model_dim}, q = part_.heads.times(arch_.head_dim);
    const std::int64_t kv = part_.kv_heads.count * arch_.head_dim;
    if (names.qkv.empty()) {
      add({{name(names.q), q.count}, {name(names.k), kv}, {name(names.v), kv}}, model_dim);
    } else {
      add({{name(names.qkv), q.count + 2 * kv}}, model_dim);
    }
    add({{name(names.attention_out), arch_.model_dim}}, q);
    std::vector<Rows> up{{name(names.up), part_.ffn.count}};
    if (arch_.gated()) up.push_back({name(names.gate), part_.ffn.count});
    add(up, model_dim);
    add({{name(names.down), arch_.model_dim}}, part_.ffn);
  }

  // One matrix, of the columns `taken` of its tensors.
  void add(const std::vector<Rows>& parts, Range taken) {
    std::int64_t rows = 0;
    for (const Rows& part : parts) rows += part.count;
    const std::int64_t elements = rows * taken.count;
    bytes_.packed +=
        forms_ != nullptr ? forms_->packed_bytes(elements) : dtype_bytes(backend_.compute_dtype(), elements);
    if (forms_ != nullptr) bytes_.decode_forms += decode_form(parts, taken);
  }

  // All of a matrix has the form, or none of it.
  std::int64_t decode_form(const std::vector<Rows>& parts, Range taken) const {
    std::int64_t bytes = 0;
    for (const Rows& part : parts) {
      const TensorInfo* tensor = source_.find(part.tensor);
      if (tensor == nullptr || !has_stored_columns(source_, *tensor, taken)) return 0;
      const auto form = forms_->decode_form_bytes(tensor->dtype, part.count, taken.count);
      if (!form) return 0;
      bytes += *form;
    }
    return bytes;
  }

  const WeightSource& source_;
  const Architecture& arch_;
  const ModelPart& part_;
  const Backend& backend_;
  const WeightForms* forms_;  // null: plain rows of the compute type
  LoadedBytes bytes_;
};

}  // namespace

LoadedBytes loaded_bytes(const WeightSource& source, const Architecture& arch, const ModelPart& part,
                         const Backend& backend) {
  return PartSizes(source, arch, part, backend).sum();
}

}  // namespace winnow
