// MappedWeights: what the GGUF and the Hugging Face source share. Tensors lie in mapped files, perhaps with
// their rows in another order than the model's; reading rows converts to float32 and undoes that order.
#pragma once

#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/weight_source.h"

namespace winnow {

// How the stored elements relate to TensorInfo::shape.
enum class StoredOrder {
  kPlain,
  // llama.cpp's order for rope on neighbouring pairs: within a head of d rows, stored row 2j + s is row s *
  // d/2 + j. For a vector its elements stand for the rows.
  kInterleavedHeads,
  kTransposed,  // a matrix stored as [cols, rows] of a plain dtype (GPT-2's Conv1D)
};

struct StoredTensor {
  TensorInfo info;  // as the model sees it
  std::span<const std::byte> data;
  StoredOrder order = StoredOrder::kPlain;
  std::int64_t head_dim = 0;  // of kInterleavedHeads: even, divides the rows
  float addend = 0.0f;        // added to every element that is read
};

class MappedWeights : public WeightSource {
 public:
  const std::string& path() const override { return path_; }
  const nlohmann::json& config() const override { return config_; }
  const TensorInfo* find(std::string_view name) const override;
  std::vector<TensorInfo> tensors() const override;
  void read_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                 std::span<float> out) const override;
  bool has_stored_rows(const TensorInfo& tensor) const override;
  void read_stored_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                        std::span<std::byte> out) const override;
  std::int64_t weight_bytes() const override;
  std::uint64_t content_hash() const override;

 protected:
  explicit MappedWeights(std::string path) : path_(std::move(path)) {}

  void set_config(nlohmann::json config) { config_ = std::move(config); }
  // Error(kBadFormat) when two tensors of the file have the same name for the model.
  void add(StoredTensor tensor);
  // A tensor whose type winnow cannot read: find() of it is an Error(kUnsupported), as is nothing else.
  void add_unreadable(std::string name, std::string dtype_name);

 private:
  const StoredTensor& stored(const TensorInfo& tensor) const;

  std::string path_;
  nlohmann::json config_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> unreadable_;  // name -> dtype
};

}  // namespace winnow
