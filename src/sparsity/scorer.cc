#include "sparsity/scorer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/error.h"
#include "sparsity/head_scorer.h"
#include "sparsity/learned_scorer.h"
#include "sparsity/token_pruner.h"

namespace winnow {
namespace {

std::int64_t token_count(std::span<float> scores) { return static_cast<std::int64_t>(scores.size()); }

// Attention that the last queries pay to each token, smoothed so that a salient token keeps its neighbours.
class AttentionScorer final : public Scorer {
 public:
  AttentionScorer(const TokenPolicy& policy, Backend& backend)
      : window_(policy.window),
        pool_(policy.pool),
        queries_(policy.queries),
        heads_(policy.heads),
        backend_(backend) {}

  bool needs_hidden() const override { return false; }

  void score(const ScorerInput& input, std::span<float> scores) override {
    const std::int64_t tokens = token_count(scores), earlier = input.kv->rows - tokens;
    check(input.q.rows == tokens, "attention scorer: one query per token");
    check(earlier >= 0, "attention scorer: the tokens are in the cache");
    // Rows of earlier turns take part in the softmax, but only this turn's tokens are scored.
    std::vector<float> row_scores(static_cast<std::size_t>(input.kv->rows));
    WindowScoresParams params = question(input);
    params.scores = row_scores;
    backend_.window_scores(params);
    std::copy(row_scores.begin() + earlier, row_scores.end(), scores.begin());
    max_pool(scores, pool_);
  }

  std::unique_ptr<RowChoice> choose(const ScorerInput& input, const StageCounts& counts) override {
    return backend_.choose_rows({.scoring = question(input),
                                 .tokens = input.q.rows,
                                 .pool = pool_,
                                 .head = counts.ends.head,
                                 .tail = counts.ends.tail,
                                 .by_score = counts.by_score,
                                 .by_recency = counts.by_recency});
  }

 private:
  WindowScoresParams question(const ScorerInput& input) const {
    const std::int64_t window = std::min(window_, input.q.rows);
    return {.q = input.q.slice(input.q.rows - window, window),
            .kv = input.kv,
            .scale = input.attention_scale,
            .queries = queries_,
            .reduction = heads_,
            .scores = {},
            .sliding_window = input.attention_window};
  }

  std::int64_t window_, pool_;
  QueryReduction queries_;
  HeadReduction heads_;
  Backend& backend_;
};

// 1 / tokens for the first token up to 1 for the last.
class RecencyScorer final : public Scorer {
 public:
  bool needs_hidden() const override { return false; }
  void score(const ScorerInput&, std::span<float> scores) override {
    const auto tokens = static_cast<double>(scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      scores[i] = static_cast<float>(static_cast<double>(i + 1) / tokens);
    }
  }
};

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection whose output bits look independent.
std::uint64_t mix_bits(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// A score in [0, 1) that depends on seed, layer and position only, whatever was scored before.
class RandomScorer final : public Scorer {
 public:
  explicit RandomScorer(std::uint64_t seed) : seed_(seed) {}
  bool needs_hidden() const override { return false; }
  void score(const ScorerInput& input, std::span<float> scores) override {
    check(input.positions.size() == scores.size(), "random scorer: one position per token");
    const std::uint64_t stream = mix_bits(mix_bits(seed_) ^ static_cast<std::uint64_t>(input.layer));
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const auto position = static_cast<std::uint64_t>(input.positions[i]);
      scores[i] = static_cast<float>(mix_bits(stream ^ position) >> 40) * 0x1p-24f;
    }
  }

 private:
  std::uint64_t seed_;
};

class NormScorer final : public Scorer {
 public:
  explicit NormScorer(Backend& backend) : backend_(backend) {}
  bool needs_hidden() const override { return true; }
  void score(const ScorerInput& input, std::span<float> scores) override {
    check(input.hidden.rows == token_count(scores), "norm scorer: one hidden row per token");
    backend_.row_norms(input.hidden, scores);
  }

 private:
  Backend& backend_;
};

// A scorer whose scores are changed once they are there.
class ChangedScorer : public Scorer {
 public:
  explicit ChangedScorer(std::unique_ptr<Scorer> scorer) : scorer_(std::move(scorer)) {}
  bool needs_hidden() const override { return scorer_->needs_hidden(); }
  bool watches(std::int64_t layer) const override { return scorer_->watches(layer); }
  void watch(std::int64_t layer, const ScorerInput& input) override { scorer_->watch(layer, input); }
  void score(const ScorerInput& input, std::span<float> scores) override {
    scorer_->score(input, scores);
    change(scores);
  }

 private:
  virtual void change(std::span<float> scores) const = 0;
  std::unique_ptr<Scorer> scorer_;
};

// A salient token keeps its neighbours.
class PooledScorer final : public ChangedScorer {
 public:
  PooledScorer(std::unique_ptr<Scorer> scorer, std::int64_t width)
      : ChangedScorer(std::move(scorer)), width_(width) {}

 private:
  void change(std::span<float> scores) const override { max_pool(scores, width_); }
  std::int64_t width_;
};

// The last step of any scorer, when the policy asks for it.
class RecencyMixer final : public ChangedScorer {
 public:
  RecencyMixer(std::unique_ptr<Scorer> scorer, double mix) : ChangedScorer(std::move(scorer)), mix_(mix) {}

 private:
  void change(std::span<float> scores) const override { mix_recency(scores, mix_); }
  double mix_;
};

std::unique_ptr<Scorer> make_attention_scorer(const TokenPolicy& policy, Backend& backend) {
  auto all_heads = std::make_unique<AttentionScorer>(policy, backend);
  const bool names_heads = std::any_of(policy.stages.begin(), policy.stages.end(),
                                       [](const Stage& stage) { return !stage.heads.empty(); });
  if (!names_heads) return all_heads;
  return make_head_scorer(policy, std::move(all_heads), backend);
}

std::unique_ptr<Scorer> make_plain_scorer(const TokenPolicy& policy, std::int64_t model_dim,
                                          Backend& backend) {
  switch (policy.scorer) {
    case ScorerKind::kAttention: return make_attention_scorer(policy, backend);
    case ScorerKind::kRecency: return std::make_unique<RecencyScorer>();
    case ScorerKind::kRandom: return std::make_unique<RandomScorer>(policy.seed);
    case ScorerKind::kNorm: return std::make_unique<NormScorer>(backend);
    case ScorerKind::kLearned:
      return std::make_unique<PooledScorer>(make_learned_scorer(policy, model_dim, backend), policy.pool);
    case ScorerKind::kOracle:
      fail(ErrorCode::kUnsupported,
           "the scorer oracle looks at the text that follows the prompt: only winnow eval can run it");
  }
  check(false, "make_scorer: a known scorer");
  return nullptr;
}

}  // namespace

std::unique_ptr<Scorer> make_scorer(const TokenPolicy& policy, std::int64_t model_dim, Backend& backend) {
  auto scorer = make_plain_scorer(policy, model_dim, backend);
  if (policy.recency_mix == 0.0) return scorer;
  return std::make_unique<RecencyMixer>(std::move(scorer), policy.recency_mix);
}

}  // namespace winnow
