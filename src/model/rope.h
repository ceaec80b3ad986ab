// Rotary position embeddings: the frequencies of every way of scaling them, as transformers computes them
// (modeling_rope_utils.py), and the table of their cosines and sines. Knows nothing about files.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.h"

namespace winnow {

enum class RopeScalingKind : std::uint8_t {
  kNone,
  kLinear,   // all frequencies divided by `factor` (arXiv 2306.15595)
  kDynamic,  // unscaled up to the original context, a larger base from there on, by length
             // (runtime/dynamic_rope.h)
  kLlama3,   // low frequencies divided by `factor`, with a ramp between (Llama 3.1)
  kYarn,     // the same by dimension, and cos and sin multiplied (arXiv 2309.00071)
  kFactors,  // each frequency divided by its own factor: what GGUF makes of llama3
};

struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 1;
  double original_context = 0;  // kDynamic, kLlama3, kYarn: positions the model was first trained with
  double low_freq_factor = 1,
         high_freq_factor = 1;           // kLlama3: the ramp, in turns within the original context
  double beta_fast = 32, beta_slow = 1;  // kYarn: the ramp, in turns within the original context
  bool truncate = true;                  // kYarn: the ramp ends at whole dimensions
  double attention_factor = 1;           // cos and sin are multiplied by it
  std::vector<double> factors;           // kFactors: [rotary_dim / 2]
};

// Radians a position, [rotary_dim / 2]; rotary_dim is even. `tokens` are the conversation's (kDynamic only).
std::vector<double> rope_frequencies(double theta, std::int64_t rotary_dim, const RopeScaling& scaling,
                                     std::int64_t tokens = 0);

// YaRN's attention factor for `factor` (eq. 22 there), with its slope: 0.1 mscale ln(factor) + 1.
double yarn_attention_factor(double factor, double mscale = 1);

// Writes the table's rows [first, end).
void fill_rope_rows(Backend& backend, const RopeTable& table, std::int64_t first, std::int64_t end,
                    const std::vector<double>& frequencies, double attention_factor);
RopeTable make_rope_table(Backend& backend, std::int64_t positions, std::int64_t rotary_dim, double theta,
                          const RopeScaling& scaling);

}  // namespace winnow
