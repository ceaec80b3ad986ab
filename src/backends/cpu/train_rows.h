// Single-threaded SIMD kernels of the training ops (Highway, dispatched at run time). train_ops.cc and
// train_attention.cc call them.
#pragma once

#include <cstdint>

#include "backends/train_ops.h"

namespace winnow::cpu {

void norm_backward_rows(const NormBackwardParams& params, std::int64_t begin, std::int64_t end);
void activation_backward_rows(const ActivationBackwardParams& params, std::int64_t begin, std::int64_t end);

// scores[begin, own] -> probabilities as MaskedAttentionParams defines them, `own` being the query's own key;
// keep null: all 1. Gives the logarithm of the denominator.
float masked_softmax(float* scores, const float* keep, std::int64_t begin, std::int64_t own);

// One query of the softmax's gradient. In: scores [begin, own] (scaled), dprobs, log_sum; delta = sum_j p_j
// dprobs_j. Out: probs = p, dprobs = gradient of the scaled scores, p (dprobs - delta). dkeep (or null) +=
// exp(s - log_sum) (dprobs - delta), but for the query's own key.
struct SoftmaxBackwardRow {
  const float* scores;
  const float* keep;
  float* probs;
  float* dprobs;
  float* dkeep;
  float log_sum, delta;
};
void softmax_backward(const SoftmaxBackwardRow& row, std::int64_t begin, std::int64_t own);

// logits -> weight x (softmax(logits) - softmax(teacher)), or - one-hot(target) where there is no teacher;
// gives the loss without the weight.
float loss_row(float* logits, const float* teacher, std::int64_t target, float weight, std::int64_t vocab);

// head' = the gradient of x, from head = that of y = rotate(norm(x)); norm null: there is none.
void rotate_row(const RopeParams& params, std::int64_t row);
void rotate_row_backward(const RopeBackwardParams& params, std::int64_t row);

}  // namespace winnow::cpu
