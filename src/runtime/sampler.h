// Sampler: logits -> the next token. The same seed and logits give the same tokens on every platform, which
// the distributions of <random> do not promise.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace winnow {

struct SamplerOptions {
  double temperature = 0;  // 0: greedy, the options below do not matter then
  std::int64_t top_k = 0;  // only the k likeliest tokens; 0: all
  double top_p = 1.0;  // only the likeliest tokens that together reach this probability (arXiv 1904.09751)
  std::uint64_t seed = 0;
};

class Sampler {
 public:
  // Error(kBadArgument) naming an option that is out of range.
  explicit Sampler(const SamplerOptions& options);

  // Greedy ties go to the lowest id. Error(kUnsupported) for logits with a NaN or +infinity, or without a
  // finite value: the model overflowed, and any token would be made up.
  TokenId sample(std::span<const float> logits);

 private:
  struct Candidate {
    TokenId id;
    double weight;  // logit until the softmax, then its exponential
  };

  void cut_to_top_k();
  void exponentiate(double highest);
  void cut_to_top_p();
  TokenId draw();

  SamplerOptions options_;
  std::mt19937_64 random_;
  std::vector<Candidate> candidates_;  // kept between calls for its memory
};

}  // namespace winnow
