#include "train/scorer_loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/check.h"

namespace winnow {
namespace {

std::vector<std::int64_t> order_of(std::span<const float> values) {
  std::vector<std::int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return values[a] < values[b]; });
  return order;
}

std::vector<double> ranks(std::span<const float> values) {
  const std::vector<std::int64_t> order = order_of(values);
  std::vector<double> result(values.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) result[order[i]] = static_cast<double>(begin + end - 1) / 2;
    begin = end;
  }
  return result;
}

}  // namespace

ScoreLoss score_loss(std::span<const float> scores, std::span<const float> targets,
                     const ScoreLossWeights& weights, double factor, TextRandom& random,
                     std::span<float> gradient) {
  const std::int64_t tokens = std::ssize(scores);
  check(std::ssize(targets) == tokens && std::ssize(gradient) == tokens,
        "score loss: a target for each score");
  ScoreLoss loss;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const double difference = scores[i] - targets[i];
    loss.squares += difference * difference / static_cast<double>(tokens);
    gradient[i] +=
        static_cast<float>(factor * weights.squares * 2 * difference / static_cast<double>(tokens));
  }
  const std::int64_t pairs = tokens * weights.pairs_of_token;
  if (tokens < 2 || pairs == 0) return loss;
  const double of_pair = factor * weights.rank / static_cast<double>(pairs);
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    std::int64_t high = random.below(tokens), low = random.below(tokens);
    if (targets[high] == targets[low]) continue;
    if (targets[high] < targets[low]) std::swap(high, low);
    const double margin = static_cast<double>(scores[high]) - scores[low];
    loss.rank +=
        (std::max(0.0, -margin) + std::log1p(std::exp(-std::abs(margin)))) / static_cast<double>(pairs);
    const auto slope = static_cast<float>(of_pair / (1 + std::exp(margin)));
    gradient[high] -= slope;
    gradient[low] += slope;
  }
  return loss;
}

double rank_correlation(std::span<const float> a, std::span<const float> b) {
  const std::vector<double> of_a = ranks(a), of_b = ranks(b);
  const double mean = static_cast<double>(a.size() - 1) / 2;
  double together = 0, squares_a = 0, squares_b = 0;
  for (std::size_t i = 0; i < of_a.size(); ++i) {
    together += (of_a[i] - mean) * (of_b[i] - mean);
    squares_a += (of_a[i] - mean) * (of_a[i] - mean);
    squares_b += (of_b[i] - mean) * (of_b[i] - mean);
  }
  return squares_a == 0 || squares_b == 0 ? 0 : together / std::sqrt(squares_a * squares_b);
}

double mass_kept(std::span<const float> scores, std::span<const float> mass, double keep) {
  const std::vector<std::int64_t> order = order_of(scores);
  const std::int64_t dropped =
      std::ssize(order) - static_cast<std::int64_t>(keep * static_cast<double>(order.size()) + 1e-9);
  double kept = 0, all = 0;
  for (std::int64_t i = 0; i < std::ssize(order); ++i) {
    all += mass[order[i]];
    if (i >= dropped) kept += mass[order[i]];
  }
  return all == 0 ? 1 : kept / all;
}

}  // namespace winnow
