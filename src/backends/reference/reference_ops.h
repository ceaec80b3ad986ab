// The ops of the reference backend, one function each: scalar loops that read like the formulas, double
// accumulation. Called by reference_backend.cc only.
//
// The reference cache is row-major: k and v are [capacity, kv_heads, head_dim] of the compute dtype.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/backend.h"

namespace winnow::reference {

void norm(const NormParams& params);
void linear(const LinearParams& params, const MatrixView& weight);  // weight: [out_features, in_features]
void activation(const ActivationParams& params);
void convert(const MatrixView& x, const MatrixView& y);
void row_norms(const MatrixView& x, std::span<float> norms);
void keep_rows(const MatrixView& x, std::span<const std::int64_t> rows);

// Applies q_norm and k_norm, if there are any, to the heads of one row q | k | v.
void norm_heads(const RopeAppendParams& params, std::vector<double>& row);
void rope_append(const RopeAppendParams& params);
void attention(const AttentionParams& params);
void attention_probs(const AttentionProbsParams& params);
std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams& params);
void window_scores(const WindowScoresParams& params);

}  // namespace winnow::reference
