#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.h"

namespace winnow {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

// A wave that turns more than high_freq_factor times within the original context stays as it is, one that
// turns less than low_freq_factor times is stretched by `factor`; between them their mixture.
double llama3_frequency(double frequency, const RopeScaling& scaling) {
  const double turns = scaling.original_context * frequency / kTurn;
  if (turns > scaling.high_freq_factor) return frequency;
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  const double share =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - share) * frequency / scaling.factor + share * frequency;
}

// The (fractional) index of the frequency that turns `turns` times within the original context.
double yarn_dimension(double turns, double theta, double rotary_dim, const RopeScaling& scaling) {
  return rotary_dim * std::log(scaling.original_context / (turns * kTurn)) / (2 * std::log(theta));
}

void scale_by_yarn(std::vector<double>& frequencies, double theta, double rotary_dim,
                   const RopeScaling& scaling) {
  double low = yarn_dimension(scaling.beta_fast, theta, rotary_dim, scaling);
  double high = yarn_dimension(scaling.beta_slow, theta, rotary_dim, scaling);
  if (scaling.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, rotary_dim - 1);
  if (low == high) high += 0.001;  // transformers' way around the division by zero
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / scaling.factor * ramp + frequencies[i] * (1 - ramp);
  }
}

// The base whose lowest frequency stretches the original context to `tokens` positions ("NTK-aware").
double dynamic_theta(double theta, double rotary_dim, const RopeScaling& scaling, double tokens) {
  const double length = std::max(tokens, scaling.original_context) / scaling.original_context;
  return theta * std::pow(scaling.factor * length - (scaling.factor - 1), rotary_dim / (rotary_dim - 2));
}

}  // namespace

std::vector<double> rope_frequencies(double theta, std::int64_t rotary_dim, const RopeScaling& scaling,
                                     std::int64_t tokens) {
  check(rotary_dim % 2 == 0, "rope: pairs of dimensions");
  if (scaling.kind == RopeScalingKind::kDynamic) {
    theta = dynamic_theta(theta, static_cast<double>(rotary_dim), scaling, static_cast<double>(tokens));
  }
  std::vector<double> frequencies(static_cast<std::size_t>(rotary_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  }
  switch (scaling.kind) {
    case RopeScalingKind::kNone:
    case RopeScalingKind::kDynamic: break;
    case RopeScalingKind::kLinear:
      for (double& frequency : frequencies) frequency /= scaling.factor;
      break;
    case RopeScalingKind::kLlama3:
      for (double& frequency : frequencies) frequency = llama3_frequency(frequency, scaling);
      break;
    case RopeScalingKind::kYarn:
      scale_by_yarn(frequencies, theta, static_cast<double>(rotary_dim), scaling);
      break;
    case RopeScalingKind::kFactors:
      check(scaling.factors.size() == frequencies.size(), "rope: a factor for every frequency");
      for (std::size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= scaling.factors[i];
      break;
  }
  return frequencies;
}

double yarn_attention_factor(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void fill_rope_rows(Backend& backend, const RopeTable& table, std::int64_t first, std::int64_t end,
                    const std::vector<double>& frequencies, double attention_factor) {
  const auto half = static_cast<std::int64_t>(frequencies.size());
  check(first <= end && end <= table.positions && 2 * half == table.rotary_dim,
        "rope: the table has no such rows");
  const std::int64_t bytes = (end - first) * half * 4;
  const Buffer host_cos = Buffer::host(bytes), host_sin = Buffer::host(bytes);
  auto *cos = host_cos.as<float>(), *sin = host_sin.as<float>();
  for (std::int64_t position = first; position < end; ++position) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      *cos++ = static_cast<float>(std::cos(angle) * attention_factor);
      *sin++ = static_cast<float>(std::sin(angle) * attention_factor);
    }
  }
  backend.upload(host_cos.as<>(), table.cos.as<float>() + first * half, bytes);
  backend.upload(host_sin.as<>(), table.sin.as<float>() + first * half, bytes);
}

RopeTable make_rope_table(Backend& backend, std::int64_t positions, std::int64_t rotary_dim, double theta,
                          const RopeScaling& scaling) {
  const std::int64_t bytes = positions * rotary_dim / 2 * 4;
  RopeTable table{backend.allocate(bytes), backend.allocate(bytes), positions, rotary_dim};
  fill_rope_rows(backend, table, 0, positions, rope_frequencies(theta, rotary_dim, scaling),
                 scaling.attention_factor);
  return table;
}

}  // namespace winnow
