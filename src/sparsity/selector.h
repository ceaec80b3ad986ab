// What a selector's name stands for: the rule a backend plans blocks by. Called where policies are read and
// where runtime/ makes planners.
#pragma once

#include <cstdint>

#include "backends/backend.h"
#include "sparsity/policy.h"

namespace winnow {

// The estimator a selector fixes. Not for kDense, which has none.
BlockEstimator estimator_of(SelectorKind selector);
// The criterion a selector has unless told otherwise; `pooled` alone can be told.
BlockCriterion default_criterion(SelectorKind selector);
// The threshold where none is given: 0.95 of the mass, or 0.01 of one query's attention.
float default_threshold(BlockCriterion criterion);

// The policy a selector's name alone means. Of kDense: nothing is skipped.
AttentionPolicy attention_policy(SelectorKind selector);

// For some query heads of one layer of a model: `rule` and `thresholds` are filled in, the rest is the
// caller's. The policy has passed check_policy().
BlockPlannerParams planner_params(const AttentionPolicy& policy, std::int64_t layer, Range heads);

}  // namespace winnow
