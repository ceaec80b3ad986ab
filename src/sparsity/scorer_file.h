// The file of a learned scorer (docs/training.md): safetensors with an MLP for each stage and, from version 2
// on, a description of what the MLPs look at. Read by the learned scorers and by training, written by
// training.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "formats/safetensors.h"
#include "sparsity/scorer_inputs.h"

namespace winnow {

struct ScorerLinear {
  std::unique_ptr<Weight> weight;
  Buffer bias;  // [out_features] float32
};

// score = fc2(gelu(fc1(x))), gelu exact.
struct ScorerMlp {
  ScorerLinear fc1, fc2;
};

// Version 2, the metadata entry "winnow_scorers": {"version": 2, "model": {"name", "shape_hash", "model_dim",
// "heads"}, "window": 64, "pools": [1, 7], "hidden": false, "stages": {"4": [0, 1, 2, 3], ...}} with the
// observed layers of each stage; "training" beside it says how they were trained.
struct ScorerDescription {
  std::string model_name, shape_hash;
  std::int64_t model_dim = 0, heads = 0;
  std::map<std::int64_t, ScorerInputs> stages;  // by layer
  nlohmann::json training;
};
nlohmann::json to_json(const ScorerDescription& description);

class ScorerFile {
 public:
  // Error(kIo, kBadFormat) for what is no safetensors file or has a damaged description; kUnsupported for a
  // version winnow does not know.
  explicit ScorerFile(const std::string& path);

  int version() const { return version_; }                               // 1: no description
  const ScorerDescription& description() const { return description_; }  // of version 2
  const std::string& path() const { return file_.path(); }

  // Tensors stage.LAYER.fc1.weight [inner, inputs], fc1.bias [inner], fc2.weight [1, inner], fc2.bias [1],
  // all F32. Error(kBadArgument) for one that is missing or has another shape, which follows from a hidden
  // size of `model_dim`.
  ScorerMlp read_mlp(std::int64_t layer, std::int64_t inputs, std::int64_t inner, std::int64_t model_dim,
                     Backend& backend) const;
  // A tensor's values, [outputs, inputs] of fc1 or fc2. Errors as above.
  std::vector<float> read_values(const std::string& name, const std::vector<std::int64_t>& shape,
                                 std::int64_t model_dim) const;

 private:
  const SafetensorsTensor& tensor(const std::string& name, const std::vector<std::int64_t>& shape,
                                  std::int64_t model_dim) const;
  ScorerLinear read_linear(const std::string& name, std::int64_t out_features, std::int64_t in_features,
                           std::int64_t model_dim, Backend& backend) const;
  std::string stages_in_file() const;

  SafetensorsFile file_;
  int version_ = 1;
  ScorerDescription description_;
};

}  // namespace winnow
