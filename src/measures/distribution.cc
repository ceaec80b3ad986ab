#include "measures/distribution.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace winnow {
namespace {

// ln sum exp(logits) = highest + log_sum. Kept apart: beside a large logit their sum would lose log_sum.
struct LogNorm {
  explicit LogNorm(std::span<const float> logits) {
    check(!logits.empty(), "a distribution over no tokens");
    highest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit - highest);
    log_sum = std::log(sum);
  }
  double log_probability(float logit) const { return (logit - highest) - log_sum; }

  double highest, log_sum;
};

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  const LogNorm norm(logits);
  return norm.highest + norm.log_sum;
}

void log_softmax(std::span<const float> logits, std::span<double> out) {
  check(logits.size() == out.size(), "log_softmax: as many results as logits");
  const LogNorm norm(logits);
  for (std::size_t i = 0; i < logits.size(); ++i) out[i] = norm.log_probability(logits[i]);
}

double cross_entropy(std::span<const float> logits, std::int64_t target) {
  check(target >= 0 && target < static_cast<std::int64_t>(logits.size()), "cross_entropy: target in range");
  return -LogNorm(logits).log_probability(logits[target]);
}

double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  check(p_logits.size() == q_logits.size(), "kl_divergence: two distributions of one vocabulary");
  // sum p (ln p - ln q) = mean under p of (p's logit - q's logit) - ln Z_p + ln Z_q, each logit less its
  // highest.
  const LogNorm q_norm(q_logits);
  const double highest = *std::max_element(p_logits.begin(), p_logits.end());
  double sum = 0, weighted = 0;
  for (std::size_t i = 0; i < p_logits.size(); ++i) {
    const double p = std::exp(p_logits[i] - highest);
    if (p == 0) continue;  // 0 log 0 = 0
    sum += p;
    weighted += p * ((p_logits[i] - highest) - (q_logits[i] - q_norm.highest));
  }
  const double kl = weighted / sum - std::log(sum) + q_norm.log_sum;
  return kl < 0 ? 0 : kl;  // rounding; a NaN stays one
}

std::int64_t top1(std::span<const float> logits) {
  check(!logits.empty(), "top1 of no logits");
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

}  // namespace winnow
