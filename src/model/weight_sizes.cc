#include "model/weight_sizes.h"

#include <fmt/format.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "backends/weight_forms.h"

namespace winnow {
namespace {

// Elements of the table that a backend keeps beside the head; 0 where the head is the table.
std::int64_t table_elements(const Architecture& arch, const Backend& backend) {
  return backend.keeps_embeddings() && !arch.tied_embeddings ? arch.vocab * arch.model_dim : 0;
}

class DecodeFormSizes {
 public:
  DecodeFormSizes(const WeightSource& source, const WeightForms& forms)
      : source_(source), forms_(forms), tensors_(source.tensors()) {
    for (const TensorInfo& tensor : tensors_) by_name_.emplace(tensor.name, &tensor);
  }

  bool has(const std::string& name) const { return by_name_.contains(name); }

  // Of the named tensors as one matrix, one below the other: all of its parts have the form, or it has none.
  std::int64_t matrix(const std::vector<std::string>& parts) const {
    std::int64_t bytes = 0;
    for (const std::string& name : parts) {
      const auto found = by_name_.find(name);
      if (found == by_name_.end() || !source_.has_stored_rows(*found->second)) return 0;
      const TensorInfo& tensor = *found->second;
      const auto part = forms_.decode_form_bytes(tensor.dtype, tensor.shape[0], tensor.shape[1]);
      if (!part) return 0;
      bytes += *part;
    }
    return bytes;
  }

 private:
  const WeightSource& source_;
  const WeightForms& forms_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, const TensorInfo*, std::less<>> by_name_;
};

}  // namespace

std::int64_t packed_bytes(const Architecture& arch, const Backend& backend) {
  const std::int64_t elements = arch.matrix_elements() + table_elements(arch, backend);
  const auto* forms = dynamic_cast<const WeightForms*>(&backend);
  return forms != nullptr ? forms->packed_bytes(elements) : dtype_bytes(backend.compute_dtype(), elements);
}

std::int64_t decode_form_bytes(const WeightSource& source, const Architecture& arch, const Backend& backend) {
  const auto* forms = dynamic_cast<const WeightForms*>(&backend);
  if (forms == nullptr) return 0;
  const DecodeFormSizes sizes(source, *forms);
  const TensorNames& names = arch.names;
  const bool own_head = sizes.has(names.lm_head);
  std::int64_t bytes = sizes.matrix({own_head ? names.lm_head : names.embedding});
  if (own_head && table_elements(arch, backend) > 0) bytes += sizes.matrix({names.embedding});
  for (std::int64_t layer = 0; layer < arch.layers; ++layer) {
    const auto name = [&](const std::string& pattern) { return fmt::format(fmt::runtime(pattern), layer); };
    bytes += names.qkv.empty() ? sizes.matrix({name(names.q), name(names.k), name(names.v)})
                               : sizes.matrix({name(names.qkv)});
    bytes += sizes.matrix({name(names.attention_out)});
    bytes += arch.gated() ? sizes.matrix({name(names.gate), name(names.up)}) : sizes.matrix({name(names.up)});
    bytes += sizes.matrix({name(names.down)});
  }
  return bytes;
}

std::int64_t rope_bytes(const Architecture& arch) {
  if (arch.rope_theta == 0) return 0;
  const std::int64_t tables = arch.sliding_rope_theta == 0 ? 1 : 2;
  return tables * arch.context * arch.rotary_dim * static_cast<std::int64_t>(sizeof(float));
}

std::int64_t loaded_bytes(std::int64_t decode_forms, const Architecture& arch, const Architecture& part,
                          const Backend& backend) {
  const double share =
      static_cast<double>(part.matrix_elements()) / static_cast<double>(arch.matrix_elements());
  return packed_bytes(part, backend) + static_cast<std::int64_t>(share * static_cast<double>(decode_forms)) +
         rope_bytes(part);
}

}  // namespace winnow
