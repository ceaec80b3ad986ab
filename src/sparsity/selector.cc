#include "sparsity/selector.h"

#include "core/check.h"

namespace winnow {

BlockEstimator estimator_of(SelectorKind selector) {
  switch (selector) {
    case SelectorKind::kExactMass:
    case SelectorKind::kThreshold: return BlockEstimator::kExact;
    case SelectorKind::kAntidiagonal: return BlockEstimator::kAntidiagonal;
    case SelectorKind::kPooled: return BlockEstimator::kPooled;
    case SelectorKind::kVerticalSlash: return BlockEstimator::kVerticalSlash;
    case SelectorKind::kLocal: return BlockEstimator::kNone;
    case SelectorKind::kDense: break;
  }
  check(false, "estimator_of: dense has none");
  return BlockEstimator::kNone;
}

BlockCriterion default_criterion(SelectorKind selector) {
  return selector == SelectorKind::kThreshold ? BlockCriterion::kMaximum : BlockCriterion::kMass;
}

float default_threshold(BlockCriterion criterion) {
  return criterion == BlockCriterion::kMass ? 0.95f : 0.01f;
}

AttentionPolicy attention_policy(SelectorKind selector) {
  AttentionPolicy policy;
  policy.selector = selector;
  if (policy.dense()) return policy;
  policy.rule.estimator = estimator_of(selector);
  policy.rule.criterion = default_criterion(selector);
  policy.thresholds = {{default_threshold(policy.rule.criterion)}};
  return policy;
}

BlockPlannerParams planner_params(const AttentionPolicy& policy, std::int64_t layer, Range heads) {
  BlockPlannerParams params;
  params.rule = policy.rule;
  for (std::int64_t head = heads.begin; head < heads.end(); ++head) {
    params.thresholds.push_back(policy.threshold(layer, head));
  }
  return params;
}

}  // namespace winnow
