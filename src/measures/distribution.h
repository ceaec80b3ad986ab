// Measures on next-token distributions, each given by a row of logits. One row, one number; means are for the
// caller. Computed in double with a shifted log-sum-exp: no logit is too large, and what a rounding of the
// inputs does not change is exact to about 1e-12.
#pragma once

#include <cstdint>
#include <span>

namespace winnow {

// ln sum exp(logits). `logits` is not empty.
double log_sum_exp(std::span<const float> logits);

// ln p of every token, into `out` of the same size.
void log_softmax(std::span<const float> logits, std::span<double> out);

// -ln p(target), nats.
double cross_entropy(std::span<const float> logits, std::int64_t target);

// KL(p || q) in nats, at least 0. A token that q gives no chance at all (logit -inf) while p does: infinity.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);

// The likeliest token; of equals the first.
std::int64_t top1(std::span<const float> logits);

}  // namespace winnow
