// WeightSource: the one interface through which the model reads a checkpoint, whatever its file format.
//
// Tensor names are Hugging Face's ("model.layers.0.self_attn.q_proj.weight"): each format translates its own
// names and undoes its own reorderings (GGUF's permuted q and k rows), so the model sees one convention. The
// weights of a norm are what is multiplied by (Gemma's checkpoints at Hugging Face hold them minus 1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "core/dtype.h"

namespace winnow {

struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;  // [rows, cols] for a matrix (row = output feature), [n] for a vector
};

// A matrix that is noise: element i, row-major, is scale * uniform(stream, i) (core/uniform.h).
struct Noise {
  std::uint64_t stream = 0;
  float scale = 1.0f;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // The file or folder, for messages.
  virtual const std::string& path() const = 0;

  // The model's hyper-parameters as Hugging Face's config.json names them (model_type, hidden_size,
  // num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, rms_norm_eps,
  // rope_theta, rope_scaling, max_position_embeddings, vocab_size, tie_word_embeddings, hidden_act, ...).
  // GGUF files have their metadata translated to it. Values are not validated here.
  virtual const nlohmann::json& config() const = 0;

  // nullptr when there is no such tensor.
  virtual const TensorInfo* find(std::string_view name) const = 0;
  virtual std::vector<TensorInfo> tensors() const = 0;

  // Rows [begin, end) of a matrix (or elements of a vector, as one row: begin 0, end 1) as float32.
  // `out` holds (end - begin) * cols floats. Safe to call from several threads.
  virtual void read_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                         std::span<float> out) const = 0;

  // What read_rows() would give, where that is noise: a backend can then make it on its own.
  virtual std::optional<Noise> noise(const TensorInfo& /*tensor*/) const { return std::nullopt; }

  // Whether the file stores the tensor's elements row by row, so that read_stored_rows() can be called.
  virtual bool has_stored_rows(const TensorInfo& tensor) const {
    static_cast<void>(tensor);
    return false;
  }
  // Rows [begin, end) of a matrix, in the model's order, as stored: `out` holds (end - begin) rows of
  // tensor.dtype. Safe to call from several threads.
  virtual void read_stored_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                                std::span<std::byte> out) const {
    static_cast<void>(tensor), static_cast<void>(begin), static_cast<void>(end), static_cast<void>(out);
    check(false, "read_stored_rows: has_stored_rows() is false");
  }

  // Bytes of weights on disk.
  virtual std::int64_t weight_bytes() const = 0;

  // xxh64 over names, shapes and the raw bytes of at most the first 4 KiB of each tensor: cheap, and changes
  // when the weights do.
  virtual std::uint64_t content_hash() const = 0;

  // Tells the system that the pages read so far are not needed any more (weights are packed elsewhere).
  virtual void drop_pages() const {}
};

// A GGUF file (of a split model any part), or a Hugging Face folder. Throws Error naming what is wrong.
std::unique_ptr<WeightSource> open_weights(const std::string& path);

}  // namespace winnow
