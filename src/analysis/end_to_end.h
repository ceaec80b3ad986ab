// End to end: the same tokens read densely and under a policy, and how far the next-token distributions
// drift. What a row's KL stands for is measured here, not assumed.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "measures/logit_file.h"
#include "measures/statistics.h"
#include "runtime/session.h"

namespace winnow {

// Every position's logits of a dense prefill, kept on disk (a LogitFile: float32, nothing is lost), and what
// is known of them alone.
class DenseRun {
 public:
  // `progress`: share done, may be empty.
  DenseRun(const Engine& engine, std::span<const TokenId> tokens,
           const std::function<void(double)>& progress);

  const std::vector<TokenId>& tokens() const { return tokens_; }
  const LogitFile& logits() const { return logits_; }
  const std::vector<TokenId>& likeliest() const { return likeliest_; }             // [tokens]
  const std::vector<double>& cross_entropies() const { return cross_entropies_; }  // [tokens - 1]
  double prefill_ms() const { return prefill_ms_; }

 private:
  std::vector<TokenId> tokens_;
  LogitFile logits_;
  std::vector<TokenId> likeliest_;
  std::vector<double> cross_entropies_;
  double prefill_ms_ = 0;
};

// By position, so that runs over several prompts can be put together.
struct Drift {
  RunningMean kl, kl_second_half;   // KL(dense || sparse) of the next token, nats
  RunningMean dense_ce, sparse_ce;  // cross-entropy of the text's own next token
  RunningMean dense_ce_second_half, sparse_ce_second_half;
  RunningMean same_top1;           // 1 where both find the same token likeliest
  RunningMean logit_error;         // a position's mean |dense - sparse|; max() is of these means
  RunningMean logit_range;         // a position's largest - smallest dense logit
  RunningMean relative_error;      // a position's mean error / range
  double logit_error_max = 0;      // of any one logit
  RunningMean density;             // computed / causal attention, as the engine counted it; one a prompt
  double prefill_ms = 0;           // all logits included; summed over prompts
  std::vector<TokenId> likeliest;  // [tokens] of the last prompt

  void merge(const Drift& other);
  double dce() const { return sparse_ce.mean() - dense_ce.mean(); }
  double dce_second_half() const { return sparse_ce_second_half.mean() - dense_ce_second_half.mean(); }
};

// The dense run's tokens again, under `policy`, which prunes no tokens.
Drift measure_drift(const Engine& engine, const DenseRun& dense, const Policy& policy,
                    const std::function<void(double)>& progress);

// Excludes, in every layer, the blocks whose largest weight is under `threshold`: exact, not estimated, and
// nothing else: no sink, no local window, no gate. The block a query itself lies in always stays: an engine
// that attends to nothing computes nothing.
Policy exclusion_policy(std::int64_t q_block, std::int64_t k_block, float threshold);

}  // namespace winnow
