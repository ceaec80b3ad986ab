#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace winnow {
namespace {

// The highest logit's token, the lowest id among equals. Most blocks hold nothing higher than what was found
// before, which vector instructions see.
TokenId argmax(std::span<const float> logits) {
  constexpr std::size_t kBlock = 256;
  std::size_t best = 0;
  float highest = -std::numeric_limits<float>::infinity();
  for (std::size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, logits.size());
    unsigned higher = 0;  // or not a number
    for (std::size_t i = begin; i < end; ++i) higher |= logits[i] <= highest ? 0u : 1u;
    for (std::size_t i = begin; higher != 0 && i < end; ++i) {
      if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
        fail(ErrorCode::kUnsupported,
             "the model computed {} as the logit of token {}: it overflows (try --precision f32)", logits[i],
             i);
      }
      if (logits[i] <= highest) continue;
      highest = logits[i];
      best = i;
    }
  }
  if (!std::isfinite(highest))
    fail(ErrorCode::kUnsupported, "the model computed no finite logit: it overflows (try --precision f32)");
  return static_cast<TokenId>(best);
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    fail(ErrorCode::kBadArgument, "temperature {}: must be 0 (greedy) or more", options.temperature);
  }
  if (options.top_k < 0) fail(ErrorCode::kBadArgument, "top_k {}: must be 0 (all) or more", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    fail(ErrorCode::kBadArgument, "top_p {}: must be above 0 and at most 1", options.top_p);
  }
}

TokenId Sampler::sample(std::span<const float> logits) {
  const TokenId best = argmax(logits);
  if (options_.temperature == 0 || options_.top_k == 1) return best;
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) candidates_.push_back({static_cast<TokenId>(i), logits[i]});
  cut_to_top_k();
  exponentiate(logits[static_cast<std::size_t>(best)]);
  cut_to_top_p();
  return draw();
}

void Sampler::cut_to_top_k() {
  const auto k = static_cast<std::size_t>(options_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  // Equal logits: the lower id is in, so that the cut does not depend on the library's nth_element.
  std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
                   });
  candidates_.resize(k);
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

void Sampler::exponentiate(double highest) {
  for (Candidate& candidate : candidates_) {
    candidate.weight = std::exp((candidate.weight - highest) / options_.temperature);
  }
}

void Sampler::cut_to_top_p() {
  if (options_.top_p >= 1) return;
  double sum = 0;
  for (const Candidate& candidate : candidates_) sum += candidate.weight;
  // n tokens of less than (1 - p) / n each hold less than 1 - p together, so none of them can be needed: most
  // of the vocabulary need not be sorted.
  const double negligible = sum * (1 - options_.top_p) / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& candidate) { return candidate.weight < negligible; });
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  });
  double reached = 0;
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    reached += candidates_[i].weight;
    if (reached < options_.top_p * sum) continue;
    candidates_.resize(i + 1);
    return;
  }
}

TokenId Sampler::draw() {
  double sum = 0;
  for (const Candidate& candidate : candidates_) sum += candidate.weight;
  const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;  // [0, 1), 53 bits
  double left = uniform * sum;
  TokenId last = candidates_.front().id;
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight <= 0) continue;
    if (left < candidate.weight) return candidate.id;
    left -= candidate.weight;
    last = candidate.id;
  }
  return last;  // rounding alone gets here
}

}  // namespace winnow
