#include "sparsity/learned_scorer.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/byte_reader.h"
#include "core/check.h"
#include "core/error.h"
#include "formats/safetensors.h"

namespace winnow {
namespace {

// Rows scored at a time: the MLP's activations stay small beside the model's, however long the prompt.
constexpr std::int64_t kChunkRows = 256;

struct Linear {
  std::unique_ptr<Weight> weight;
  Buffer bias;  // [out_features] float32
};

struct Mlp {
  Linear fc1, fc2;
};

// Reads and checks the tensors of one file.
class MlpReader {
 public:
  MlpReader(const std::string& path, std::int64_t model_dim, Backend& backend)
      : file_(path), model_dim_(model_dim), backend_(backend) {}

  Mlp read(std::int64_t layer) const {
    const std::int64_t inner = model_dim_ / 4;
    const std::string prefix = fmt::format("stage.{}.", layer);
    return {read_linear(prefix + "fc1", inner, model_dim_), read_linear(prefix + "fc2", 1, inner)};
  }

 private:
  Linear read_linear(const std::string& name, std::int64_t out_features, std::int64_t in_features) const {
    const auto& weight = tensor(name + ".weight", {out_features, in_features});
    const auto& bias = tensor(name + ".bias", {out_features});
    Linear linear;
    linear.weight = backend_.pack(out_features, in_features,
                                  [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
                                    const std::int64_t row_bytes = dtype_bytes(DType::kF32, in_features);
                                    std::memcpy(out.data(), weight.data.data() + begin * row_bytes,
                                                static_cast<std::size_t>((end - begin) * row_bytes));
                                  });
    linear.bias = backend_.allocate(dtype_bytes(DType::kF32, out_features));
    backend_.upload(bias.data.data(), linear.bias.as<>(), static_cast<std::int64_t>(bias.data.size()));
    return linear;
  }

  const SafetensorsTensor& tensor(const std::string& name, const std::vector<std::int64_t>& shape) const {
    const SafetensorsTensor* found = file_.find(name);
    if (found == nullptr) {
      fail(ErrorCode::kBadArgument,
           "{}: tensor {} is missing; the file has scorers for the stages at layers {}", file_.path(), name,
           stages_in_file());
    }
    if (found->dtype != DType::kF32 || found->shape != shape) {
      fail(ErrorCode::kBadArgument,
           "{}: tensor {} is {} [{}], expected F32 [{}] for a model whose hidden size is {}", file_.path(),
           name, printable(found->dtype_name), fmt::join(found->shape, ", "), fmt::join(shape, ", "),
           model_dim_);
    }
    return *found;
  }

  // "4, 10", for messages.
  std::string stages_in_file() const {
    constexpr std::string_view kPrefix = "stage.", kSuffix = ".fc1.weight";
    std::string stages;
    for (const auto& [name, entry] : file_.tensors()) {
      if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix) ||
          name.size() <= kPrefix.size() + kSuffix.size()) {
        continue;
      }
      stages += stages.empty() ? "" : ", ";
      stages += name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
    }
    return stages.empty() ? "(none)" : printable(stages);
  }

  SafetensorsFile file_;
  std::int64_t model_dim_;
  Backend& backend_;
};

class LearnedScorer final : public Scorer {
 public:
  LearnedScorer(std::map<std::int64_t, Mlp> mlps, std::int64_t model_dim, Backend& backend)
      : mlps_(std::move(mlps)), model_dim_(model_dim), backend_(backend) {}

  bool needs_hidden() const override { return true; }

  void score(const ScorerInput& input, std::span<float> scores) override {
    const auto tokens = static_cast<std::int64_t>(scores.size());
    check(input.hidden.rows == tokens && input.hidden.cols == model_dim_,
          "learned scorer: one hidden row per token");
    const auto mlp = mlps_.find(input.layer);
    check(mlp != mlps_.end(), "learned scorer: the layer is a stage of the policy");
    const Activations activations(backend_, std::min(tokens, kChunkRows), model_dim_);
    for (std::int64_t begin = 0; begin < tokens; begin += kChunkRows) {
      const std::int64_t rows = std::min(kChunkRows, tokens - begin);
      score_chunk(mlp->second, input.hidden.slice(begin, rows), activations);
      backend_.download(activations.scores.as<>(), &scores[begin], dtype_bytes(DType::kF32, rows));
    }
  }

 private:
  struct Activations {
    Activations(Backend& backend, std::int64_t rows, std::int64_t model_dim)
        : hidden(backend.allocate(rows * dtype_bytes(backend.compute_dtype(), model_dim))),
          inner(backend.allocate(rows * dtype_bytes(backend.compute_dtype(), model_dim / 4))),
          scores(backend.allocate(rows * dtype_bytes(DType::kF32, 1))) {}
    Buffer hidden;  // [rows, model_dim] compute dtype
    Buffer inner;   // [rows, model_dim / 4] compute dtype
    Buffer scores;  // [rows] float32
  };

  void score_chunk(const Mlp& mlp, const MatrixView& hidden, const Activations& activations) {
    const DType compute = backend_.compute_dtype();
    const std::int64_t rows = hidden.rows;
    MatrixView x = hidden;
    if (compute != hidden.dtype) {
      x = {activations.hidden.as<>(), compute, rows, model_dim_};
      backend_.convert(hidden, x);
    }
    const MatrixView inner{activations.inner.as<>(), compute, rows, model_dim_ / 4};
    const MatrixView scores{activations.scores.as<>(), DType::kF32, rows, 1};
    backend_.linear({.x = x, .weight = mlp.fc1.weight.get(), .bias = mlp.fc1.bias.as<float>(), .y = inner});
    backend_.activation({.kind = ActivationKind::kGeluErf, .x = inner, .y = inner});
    backend_.linear(
        {.x = inner, .weight = mlp.fc2.weight.get(), .bias = mlp.fc2.bias.as<float>(), .y = scores});
  }

  std::map<std::int64_t, Mlp> mlps_;  // by stage layer
  std::int64_t model_dim_;
  Backend& backend_;
};

}  // namespace

std::unique_ptr<Scorer> make_learned_scorer(const TokenPolicy& policy, std::int64_t model_dim,
                                            Backend& backend) {
  if (policy.scorer_file.empty())
    fail(ErrorCode::kBadArgument, "the scorer learned needs a file: learned=FILE");
  if (model_dim < 4) {
    fail(ErrorCode::kUnsupported, "{}: the scorer learned needs a hidden size of 4 or more, the model has {}",
         policy.scorer_file, model_dim);
  }
  const MlpReader reader(policy.scorer_file, model_dim, backend);
  std::map<std::int64_t, Mlp> mlps;
  for (const Stage& stage : policy.stages) mlps.emplace(stage.layer, reader.read(stage.layer));
  return std::make_unique<LearnedScorer>(std::move(mlps), model_dim, backend);
}

}  // namespace winnow
