#include "sparsity/learned_scorer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/check.h"
#include "core/error.h"
#include "sparsity/query_aware_scorer.h"
#include "sparsity/scorer_file.h"

namespace winnow {
namespace {

// Rows scored at a time: the MLP's activations stay small beside the model's, however long the prompt.
constexpr std::int64_t kChunkRows = 256;

class LearnedScorer final : public Scorer {
 public:
  LearnedScorer(std::map<std::int64_t, ScorerMlp> mlps, std::int64_t model_dim, Backend& backend)
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

  void score_chunk(const ScorerMlp& mlp, const MatrixView& hidden, const Activations& activations) {
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

  std::map<std::int64_t, ScorerMlp> mlps_;  // by stage layer
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
  const ScorerFile file(policy.scorer_file);
  if (file.version() == 2) return make_query_aware_scorer(policy, file, model_dim, backend);
  std::map<std::int64_t, ScorerMlp> mlps;
  for (const Stage& stage : policy.stages) {
    mlps.emplace(stage.layer, file.read_mlp(stage.layer, model_dim, model_dim / 4, model_dim, backend));
  }
  return std::make_unique<LearnedScorer>(std::move(mlps), model_dim, backend);
}

void check_scorer_model(const TokenPolicy& policy, const std::string& shape_hash) {
  if (policy.scorer != ScorerKind::kLearned || policy.scorer_file.empty()) return;
  const ScorerFile file(policy.scorer_file);
  const ScorerDescription& description = file.description();
  if (file.version() == 1 || description.shape_hash == shape_hash) return;
  fail(ErrorCode::kBadArgument,
       "{}: these scorers were trained for the model {} (shape {}), not for this one (shape {})", file.path(),
       description.model_name, description.shape_hash, shape_hash);
}

}  // namespace winnow
