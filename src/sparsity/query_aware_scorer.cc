#include "sparsity/query_aware_scorer.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/error.h"
#include "sparsity/scorer_inputs.h"

namespace winnow {
namespace {

// Rows scored at a time: inputs stay small however long the prompt.
constexpr std::int64_t kChunkRows = 256;

struct StageMlp {
  ScorerInputs inputs;
  std::int64_t inner = 0;
  ScorerMlp mlp;
};

class QueryAwareScorer final : public Scorer {
 public:
  QueryAwareScorer(std::map<std::int64_t, StageMlp> stages, const ScorerDescription& description,
                   Backend& backend)
      : stages_(std::move(stages)),
        heads_(description.heads),
        model_dim_(description.model_dim),
        backend_(backend) {
    for (const auto& [layer, stage] : stages_) {
      hidden_ |= stage.inputs.hidden;
      for (const std::int64_t observed : stage.inputs.attention_layers) last_use_[observed] = layer;
    }
  }

  bool needs_hidden() const override { return hidden_; }
  bool watches(std::int64_t layer) const override { return last_use_.contains(layer); }

  void watch(std::int64_t layer, const ScorerInput& input) override {
    check(backend_.model_heads(input.q, *input.kv) == heads_, "learned scorer: the heads of its model");
    Seen& seen = seen_[layer];
    seen.positions.assign(input.positions.begin(), input.positions.end());
    seen.attention.resize(static_cast<std::size_t>(heads_ * input.q.rows));
    head_window_attention(backend_, input.q, *input.kv, input.attention_scale,
                          stages_.begin()->second.inputs.window, input.attention_window, seen.attention);
  }

  void score(const ScorerInput& input, std::span<float> scores) override {
    const auto found = stages_.find(input.layer);
    check(found != stages_.end(), "learned scorer: the layer is a stage of the policy");
    const StageMlp& stage = found->second;
    const auto tokens = static_cast<std::int64_t>(scores.size());
    const std::int64_t columns = stage.inputs.columns(heads_, model_dim_);
    const std::vector<float> rows = input_rows(stage.inputs, input, tokens);
    const std::int64_t chunk = std::min(tokens, kChunkRows);
    const Buffer x = backend_.allocate(chunk * dtype_bytes(DType::kF32, columns));
    const Buffer narrow = backend_.allocate(chunk * dtype_bytes(backend_.compute_dtype(), columns));
    const Buffer inner = backend_.allocate(chunk * dtype_bytes(backend_.compute_dtype(), stage.inner));
    const Buffer result = backend_.allocate(chunk * dtype_bytes(DType::kF32, 1));
    for (std::int64_t begin = 0; begin < tokens; begin += kChunkRows) {
      const std::int64_t count = std::min(kChunkRows, tokens - begin);
      const MatrixView wide{x.as<>(), DType::kF32, count, columns};
      backend_.upload(rows.data() + begin * columns, wide.data, count * wide.row_bytes());
      score_chunk(stage, wide, narrow, inner, {result.as<>(), DType::kF32, count, 1});
      backend_.download(result.as<>(), &scores[static_cast<std::size_t>(begin)],
                        dtype_bytes(DType::kF32, count));
    }
    forget_before(input.layer);
  }

 private:
  // Attention that a layer's tokens got, r of scorer_inputs.h.
  struct Seen {
    std::vector<std::int32_t> positions;  // [tokens]
    std::vector<float> attention;         // [heads, tokens]
  };

  // Of the tokens at `positions`, which are among those the layer had, [heads, positions].
  std::vector<float> attention_of(std::int64_t layer, std::span<const std::int32_t> positions) const {
    const auto found = seen_.find(layer);
    check(found != seen_.end(), "learned scorer: it was shown its layers");
    const Seen& seen = found->second;
    const std::int64_t tokens = std::ssize(positions), before = std::ssize(seen.positions);
    std::vector<float> attention(static_cast<std::size_t>(heads_ * tokens));
    std::int64_t at = 0;
    for (std::int64_t i = 0; i < tokens; ++i) {
      while (at < before && seen.positions[at] != positions[i]) ++at;
      check(at < before, "learned scorer: tokens of a stage are among those of the layers before");
      for (std::int64_t head = 0; head < heads_; ++head) {
        attention[head * tokens + i] = seen.attention[head * before + at];
      }
    }
    return attention;
  }

  std::vector<float> input_rows(const ScorerInputs& inputs, const ScorerInput& input,
                                std::int64_t tokens) const {
    const std::int64_t columns = inputs.columns(heads_, model_dim_);
    std::vector<float> rows(static_cast<std::size_t>(tokens * columns));
    std::int64_t column = 0;
    for (const std::int64_t layer : inputs.attention_layers) {
      const std::vector<float> attention = attention_of(layer, input.positions);
      write_attention_columns(attention, heads_, inputs.pools, rows.data() + column, columns);
      column += inputs.layer_columns(heads_);
    }
    write_place_columns(tokens, rows.data() + column, columns);
    column += ScorerInputs::kPlaceColumns;
    if (!inputs.hidden) return rows;
    check(input.hidden.rows == tokens && input.hidden.cols == model_dim_,
          "learned scorer: one hidden row per token");
    Buffer copy;
    const MatrixView hidden = on_host(backend_, input.hidden, copy);
    for (std::int64_t row = 0; row < tokens; ++row) {
      write_hidden_columns(hidden.row<float>(row), model_dim_, rows.data() + row * columns + column);
    }
    return rows;
  }

  void score_chunk(const StageMlp& stage, const MatrixView& wide, const Buffer& narrow,
                   const Buffer& inner_buffer, const MatrixView& scores) {
    const DType compute = backend_.compute_dtype();
    const MatrixView x{narrow.as<>(), compute, wide.rows, wide.cols};
    const MatrixView inner{inner_buffer.as<>(), compute, wide.rows, stage.inner};
    backend_.convert(wide, x);
    backend_.linear(
        {.x = x, .weight = stage.mlp.fc1.weight.get(), .bias = stage.mlp.fc1.bias.as<float>(), .y = inner});
    backend_.activation({.kind = ActivationKind::kGeluErf, .x = inner, .y = inner});
    backend_.linear({.x = inner,
                     .weight = stage.mlp.fc2.weight.get(),
                     .bias = stage.mlp.fc2.bias.as<float>(),
                     .y = scores});
  }

  // Layers that no later stage looks at.
  void forget_before(std::int64_t stage) {
    std::erase_if(seen_, [&](const auto& entry) { return last_use_.at(entry.first) <= stage; });
  }

  std::map<std::int64_t, StageMlp> stages_;        // by layer
  std::map<std::int64_t, std::int64_t> last_use_;  // observed layer -> the last stage that looks at it
  std::map<std::int64_t, Seen> seen_;              // by layer
  std::int64_t heads_, model_dim_;
  bool hidden_ = false;
  Backend& backend_;
};

}  // namespace

std::unique_ptr<Scorer> make_query_aware_scorer(const TokenPolicy& policy, const ScorerFile& file,
                                                std::int64_t model_dim, Backend& backend) {
  const ScorerDescription& description = file.description();
  if (description.model_dim != model_dim) {
    fail(ErrorCode::kBadArgument,
         "{}: these scorers were trained for the model {}, whose hidden size is {}, not {}", file.path(),
         description.model_name, description.model_dim, model_dim);
  }
  std::map<std::int64_t, StageMlp> stages;
  for (const Stage& stage : policy.stages) {
    const auto found = description.stages.find(stage.layer);
    if (found == description.stages.end()) {
      std::vector<std::int64_t> known;
      for (const auto& [layer, inputs] : description.stages) known.push_back(layer);
      fail(ErrorCode::kBadArgument,
           "{}: no scorer for the stage at layer {}; the file has scorers for the stages at layers {}",
           file.path(), stage.layer, fmt::join(known, ", "));
    }
    const std::int64_t inner = std::max<std::int64_t>(1, description.model_dim / 4);
    StageMlp mlp{found->second, inner, {}};
    mlp.mlp = file.read_mlp(stage.layer, found->second.columns(description.heads, description.model_dim),
                            inner, description.model_dim, backend);
    stages.emplace(stage.layer, std::move(mlp));
  }
  return std::make_unique<QueryAwareScorer>(std::move(stages), description, backend);
}

}  // namespace winnow
