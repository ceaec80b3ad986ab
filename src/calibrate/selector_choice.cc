#include "calibrate/selector_choice.h"

#include <limits>

#include "calibrate/block_calibration.h"
#include "sparsity/selector.h"

namespace winnow {
namespace {

// The error that candidates are compared at is the first one's at this density.
constexpr double kComparedDensity = 0.2;

AttentionPolicy pooled(std::int64_t k_block) {
  AttentionPolicy attention = attention_policy(SelectorKind::kPooled);
  attention.rule.criterion = BlockCriterion::kMaximum;
  attention.rule.q_block = 32;
  attention.rule.k_block = k_block;
  attention.rule.pool = 16;
  attention.rule.outliers = 2;
  attention.rule.query_stride = 8;
  attention.dense_last_tokens = 32;
  return attention;
}

AttentionPolicy antidiagonal() {
  AttentionPolicy attention = attention_policy(SelectorKind::kAntidiagonal);
  attention.rule.q_block = attention.rule.k_block = 64;
  attention.dense_last_tokens = 32;
  return attention;
}

// The least density that loses no more than `loss`.
double density_at(const BlockCurves& curves, double loss) {
  double low = 0, high = 1;
  for (int i = 0; i < 12; ++i) {
    const double middle = (low + high) / 2;
    (choose_thresholds(curves, middle).loss > loss ? low : high) = middle;
  }
  return high;
}

}  // namespace

std::vector<AttentionPolicy> selector_candidates() { return {pooled(16), pooled(32), antidiagonal()}; }

std::optional<AttentionPolicy> choose_selector(const Engine& engine, std::span<const TokenId> tokens,
                                               const std::function<void(double)>& progress,
                                               const std::function<bool()>& cancelled) {
  const std::vector<AttentionPolicy> candidates = selector_candidates();
  std::optional<AttentionPolicy> best;
  std::optional<double> loss;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const CurveSettings settings{
        .attention = candidates[i], .windows = {{tokens.begin(), tokens.end()}}, .sensitivity_windows = 0};
    const auto step = [&](double share) {
      if (progress) progress((static_cast<double>(i) + share) / static_cast<double>(candidates.size()));
    };
    BlockCurves curves;
    if (!measure_block_curves(engine, settings, step, cancelled, curves)) return std::nullopt;
    if (!loss) loss = choose_thresholds(curves, kComparedDensity).loss;
    const AttentionCosts& costs = engine.attention_costs(candidates[i].rule);
    const double ns = costs.plan_ns + costs.sparse_ns * density_at(curves, *loss);
    if (ns >= least) continue;
    least = ns;
    best = candidates[i];
  }
  return best;
}

}  // namespace winnow
