#include "analysis/end_to_end.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "measures/distribution.h"
#include "sparsity/selector.h"

namespace winnow {
namespace {

// The vocabulary's part comes after the layers; about a third of the whole on the models this is for.
constexpr double kLayersShare = 0.7;

// Reads `tokens` in a new session and hands every row's logits to `each` (row, logits) from several threads.
// Returns the session's work.
PassStats read_prompt(const Engine& engine, std::span<const TokenId> tokens, const Policy& policy,
                      const std::function<void(double)>& progress,
                      const std::function<void(std::int64_t, const MatrixView&)>& each_chunk) {
  PrefillOptions options;
  options.reserve_tokens = 0;
  if (progress) options.progress = [&](double share) { progress(share * kLayersShare); };
  options.all_logits = [&](std::int64_t first_row, const MatrixView& logits) {
    each_chunk(first_row, logits);
    const double done = static_cast<double>(first_row + logits.rows) / static_cast<double>(tokens.size());
    if (progress) progress(kLayersShare + (1 - kLayersShare) * done);
  };
  Session session(engine);
  session.prefill(tokens, policy, options);
  return session.prefill_stats();
}

std::span<const float> row_of(const MatrixView& logits, std::int64_t row) {
  return {logits.row<float>(row), static_cast<std::size_t>(logits.cols)};
}

// One position's part of a Drift.
struct PositionDrift {
  double kl = 0, cross_entropy = 0, error_mean = 0, error_max = 0, range = 0;
  TokenId likeliest = 0;
};

PositionDrift compare(std::span<const float> dense, std::span<const float> sparse, TokenId next) {
  PositionDrift drift{.kl = kl_divergence(dense, sparse),
                      .cross_entropy = cross_entropy(sparse, next),
                      .likeliest = static_cast<TokenId>(top1(sparse))};
  double sum = 0, low = dense[0], high = dense[0];
  for (std::size_t i = 0; i < dense.size(); ++i) {
    const double error = std::abs(static_cast<double>(dense[i]) - sparse[i]);
    sum += error;
    drift.error_max = std::max(drift.error_max, error);
    low = std::min<double>(low, dense[i]);
    high = std::max<double>(high, dense[i]);
  }
  drift.error_mean = sum / static_cast<double>(dense.size());
  drift.range = high - low;
  return drift;
}

void add_position(Drift& drift, const PositionDrift& one, const DenseRun& dense, std::int64_t row) {
  const auto tokens = static_cast<std::int64_t>(dense.tokens().size());
  const bool late = row >= tokens / 2;
  drift.kl.add(one.kl);
  if (late) drift.kl_second_half.add(one.kl);
  drift.same_top1.add(one.likeliest == dense.likeliest()[row] ? 1 : 0);
  drift.likeliest.push_back(one.likeliest);
  drift.logit_error.add(one.error_mean);
  drift.logit_error_max = std::max(drift.logit_error_max, one.error_max);
  drift.logit_range.add(one.range);
  if (one.range > 0) drift.relative_error.add(one.error_mean / one.range);
  if (row + 1 == tokens) return;  // what follows the last token is not known
  const double before = dense.cross_entropies()[row];
  drift.dense_ce.add(before);
  drift.sparse_ce.add(one.cross_entropy);
  if (late) drift.dense_ce_second_half.add(before);
  if (late) drift.sparse_ce_second_half.add(one.cross_entropy);
}

// The token after `row`; of the last row any.
TokenId next_token(std::span<const TokenId> tokens, std::int64_t row) {
  return tokens[std::min(row + 1, static_cast<std::int64_t>(tokens.size()) - 1)];
}

}  // namespace

DenseRun::DenseRun(const Engine& engine, std::span<const TokenId> tokens,
                   const std::function<void(double)>& progress)
    : tokens_(tokens.begin(), tokens.end()),
      logits_(static_cast<std::int64_t>(tokens.size()), engine.arch().vocab),
      likeliest_(tokens.size()),
      cross_entropies_(tokens.size()) {
  const PassStats stats =
      read_prompt(engine, tokens, Policy{}, progress, [&](std::int64_t first_row, const MatrixView& logits) {
        logits_.write(first_row, {logits.row<float>(0), static_cast<std::size_t>(logits.rows * logits.cols)});
#pragma omp parallel for
        for (std::int64_t i = 0; i < logits.rows; ++i) {
          const std::int64_t row = first_row + i;
          likeliest_[row] = static_cast<TokenId>(top1(row_of(logits, i)));
          cross_entropies_[row] = cross_entropy(row_of(logits, i), next_token(tokens_, row));
        }
      });
  cross_entropies_.pop_back();  // nothing follows the last token
  prefill_ms_ = stats.ms;
}

void Drift::merge(const Drift& other) {
  for (auto member : {&Drift::kl, &Drift::kl_second_half, &Drift::dense_ce, &Drift::sparse_ce,
                      &Drift::dense_ce_second_half, &Drift::sparse_ce_second_half, &Drift::same_top1,
                      &Drift::logit_error, &Drift::logit_range, &Drift::relative_error, &Drift::density})
    (this->*member).merge(other.*member);
  logit_error_max = std::max(logit_error_max, other.logit_error_max);
  prefill_ms += other.prefill_ms;
  likeliest = other.likeliest;
}

Drift measure_drift(const Engine& engine, const DenseRun& dense, const Policy& policy,
                    const std::function<void(double)>& progress) {
  check(!policy.prunes(), "drift is measured at every position: no tokens may be pruned");
  Drift drift;
  std::vector<float> dense_logits;
  std::vector<PositionDrift> positions;
  const PassStats stats = read_prompt(
      engine, dense.tokens(), policy, progress, [&](std::int64_t first_row, const MatrixView& logits) {
        dense_logits.resize(static_cast<std::size_t>(logits.rows * logits.cols));
        dense.logits().read(first_row, dense_logits);
        positions.resize(static_cast<std::size_t>(logits.rows));
        const MatrixView reference{dense_logits.data(), DType::kF32, logits.rows, logits.cols};
#pragma omp parallel for
        for (std::int64_t i = 0; i < logits.rows; ++i) {
          positions[i] =
              compare(row_of(reference, i), row_of(logits, i), next_token(dense.tokens(), first_row + i));
        }
        for (std::int64_t i = 0; i < logits.rows; ++i)
          add_position(drift, positions[i], dense, first_row + i);
      });
  drift.density.add(stats.density());
  drift.prefill_ms = stats.ms;
  return drift;
}

Policy exclusion_policy(std::int64_t q_block, std::int64_t k_block, float threshold) {
  Policy policy;
  policy.name = fmt::format("threshold {:g} at {}x{}", threshold, q_block, k_block);
  policy.attention = attention_policy(SelectorKind::kThreshold);
  policy.attention.rule.q_block = q_block;
  policy.attention.rule.k_block = k_block;
  policy.attention.rule.sink_tokens = policy.attention.rule.local_tokens = 0;
  policy.attention.thresholds = {{threshold}};
  policy.attention.dense_last_tokens = policy.attention.dense_first_layers = 0;
  policy.attention.gate = false;
  return policy;
}

}  // namespace winnow
