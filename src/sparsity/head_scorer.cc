#include "sparsity/head_scorer.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/higher.h"
#include "sparsity/token_pruner.h"

namespace winnow {
namespace {

// What one head gave to the tokens that reached its layer.
struct HeadScores {
  std::vector<std::int32_t> positions;  // ascending
  std::vector<float> scores;
};

// Scores over the highest of the tokens in between the protected ones. All zero stays all zero.
void scale_to_highest(std::span<float> scores, const TokenPolicy& policy) {
  const ProtectedEnds ends = protected_ends(std::ssize(scores), policy);
  if (ends.head >= ends.tail) return;
  const float highest = *std::max_element(scores.begin() + ends.head, scores.begin() + ends.tail);
  if (!(highest > 0.0f)) return;
  for (float& score : scores) score /= highest;
}

class HeadScorer final : public Scorer {
 public:
  HeadScorer(const TokenPolicy& policy, std::unique_ptr<Scorer> others, Backend& backend)
      : policy_(policy), others_(std::move(others)), backend_(backend) {
    for (const Stage& stage : policy_.stages) {
      for (const AskedHead& asked : stage.heads) {
        std::vector<std::int32_t>& heads = heads_of_layer_[asked.layer];
        if (std::find(heads.begin(), heads.end(), asked.head) == heads.end()) heads.push_back(asked.head);
      }
    }
  }

  bool needs_hidden() const override { return false; }
  bool watches(std::int64_t layer) const override { return heads_of_layer_.count(layer) > 0; }

  void watch(std::int64_t layer, const ScorerInput& input) override {
    const std::vector<std::int32_t>& heads = heads_of_layer_.at(layer);
    const std::int64_t tokens = std::ssize(input.positions), rows = input.kv->rows;
    check(input.q.rows == tokens && rows >= tokens, "head scorer: one query and one cache row per token");
    const std::int64_t window = std::min(policy_.window, tokens);
    std::vector<float> all(heads.size() * static_cast<std::size_t>(rows));
    backend_.window_scores({.q = input.q.slice(tokens - window, window),
                            .kv = input.kv,
                            .scale = input.attention_scale,
                            .heads = heads,
                            .queries = policy_.queries,
                            .per_head = true,
                            .scores = all,
                            .sliding_window = input.attention_window});
    for (std::size_t i = 0; i < heads.size(); ++i) {
      const auto end = all.begin() + static_cast<std::ptrdiff_t>(i + 1) * rows;
      HeadScores& seen = seen_[{layer, heads[i]}];
      seen.positions.assign(input.positions.begin(), input.positions.end());
      seen.scores.assign(end - tokens, end);  // rows of earlier turns are not scored
      max_pool(seen.scores, policy_.pool);
      scale_to_highest(seen.scores, policy_);
    }
  }

  void score(const ScorerInput& input, std::span<float> scores) override {
    const std::vector<AskedHead>& asked = stage_before(input.layer).heads;
    if (asked.empty()) {
      others_->score(input, scores);
      return;
    }
    std::fill(scores.begin(), scores.end(), 0.0f);
    for (const AskedHead& head : asked) {
      const HeadScores& seen = seen_.at({head.layer, head.head});
      std::size_t at = 0;  // tokens of the stage are among those seen, in the same order
      for (std::size_t i = 0; i < scores.size(); ++i) {
        while (seen.positions[at] != input.positions[i]) ++at;
        scores[i] = higher(scores[i], seen.scores[at]);
      }
    }
  }

 private:
  const Stage& stage_before(std::int64_t layer) const {
    const auto found = std::find_if(policy_.stages.begin(), policy_.stages.end(),
                                    [&](const Stage& stage) { return stage.layer == layer; });
    check(found != policy_.stages.end(), "head scorer: a stage of the policy");
    return *found;
  }

  TokenPolicy policy_;
  std::unique_ptr<Scorer> others_;
  Backend& backend_;
  std::map<std::int64_t, std::vector<std::int32_t>> heads_of_layer_;
  std::map<std::pair<std::int64_t, std::int32_t>, HeadScores> seen_;  // by layer and head
};

}  // namespace

std::unique_ptr<Scorer> make_head_scorer(const TokenPolicy& policy, std::unique_ptr<Scorer> others,
                                         Backend& backend) {
  return std::make_unique<HeadScorer>(policy, std::move(others), backend);
}

}  // namespace winnow
