#include "train/scorer_training.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "core/error.h"
#include "eval/text_random.h"

namespace winnow {
namespace {

void check_finite(const std::vector<StageSamples>& samples, std::int64_t stage) {
  for (const StageSamples& window : samples) {
    const auto finite = [](float value) { return std::isfinite(value); };
    if (!std::all_of(window.inputs.begin(), window.inputs.end(), finite) ||
        !std::all_of(window.targets.begin(), window.targets.end(), finite)) {
      fail(ErrorCode::kBadArgument,
           "stage {}: samples that are not finite: the model's activations overflow on this data", stage);
    }
  }
}

}  // namespace

ScorerTraining::ScorerTraining(Backend& backend, const ScorerTrainingSettings& settings, std::int64_t stage,
                               std::int64_t inputs, std::int64_t inner, std::vector<StageSamples> training,
                               std::vector<StageSamples> validation)
    : settings_(settings),
      stage_(stage),
      inputs_(inputs),
      inner_(inner),
      training_(std::move(training)),
      validation_(std::move(validation)),
      ops_(0),
      pass_(backend, ops_) {
  check_finite(training_, stage);
  check_finite(validation_, stage);
}

ScorerState ScorerTraining::start() const {
  ScorerState state;
  state.mlp = state.best =
      make_mlp(inputs_, inner_, settings_.seed * 1000003 + static_cast<std::uint64_t>(stage_));
  std::vector<double> sum(static_cast<std::size_t>(inputs_)), squares(sum);
  double target_sum = 0, target_squares = 0, rows = 0;
  for (const StageSamples& window : training_) {
    for (std::size_t i = 0; i < window.inputs.size(); ++i) {
      const double value = window.inputs[i];
      sum[i % sum.size()] += value;
      squares[i % sum.size()] += value * value;
    }
    for (const float target : window.targets) target_sum += target, target_squares += double{target} * target;
    rows += static_cast<double>(window.targets.size());
  }
  const auto deviation = [&](double of_sum, double of_squares) {
    return std::sqrt(std::max(0.0, of_squares / rows - of_sum / rows * (of_sum / rows)));
  };
  for (std::size_t i = 0; i < sum.size(); ++i) {
    state.input_mean.push_back(static_cast<float>(sum[i] / rows));
    state.input_scale.push_back(static_cast<float>(1 / std::max(1e-3, deviation(sum[i], squares[i]))));
  }
  state.target_mean = static_cast<float>(target_sum / rows);
  state.target_scale = static_cast<float>(1 / std::max(1e-6, deviation(target_sum, target_squares)));
  return state;
}

void ScorerTraining::normalise(const ScorerState& state) {
  if (normalised_) return;
  for (auto* samples : {&training_, &validation_}) {
    for (StageSamples& window : *samples) {
      for (std::size_t i = 0; i < window.inputs.size(); ++i) {
        const std::size_t column = i % state.input_mean.size();
        window.inputs[i] = (window.inputs[i] - state.input_mean[column]) * state.input_scale[column];
      }
    }
  }
  for (StageSamples& window : training_) {
    for (float& target : window.targets) target = (target - state.target_mean) * state.target_scale;
  }
  normalised_ = true;
}

void ScorerTraining::check_loss(double loss, std::int64_t epoch, std::size_t step) const {
  if (std::isfinite(loss)) return;
  fail(ErrorCode::kUnsupported,
       "stage {}: the loss is not finite in epoch {}, step {}: lower --rate; the last checkpoint is kept",
       stage_, epoch + 1, step);
}

EpochLosses ScorerTraining::run_epoch(ScorerState& state) {
  normalise(state);
  ScorerState next = state;
  TextRandom random(settings_.seed, "epoch", stage_, state.epoch);
  std::vector<std::int64_t> order(training_.size());
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  const double progress = static_cast<double>(state.epoch) / static_cast<double>(settings_.epochs);
  const double rate = settings_.rate * (0.55 + 0.45 * std::cos(std::numbers::pi * progress));
  EpochLosses losses;
  std::vector<float> gradient(next.mlp.parameters.size()), dscores;
  for (std::size_t begin = 0; begin < order.size();
       begin += static_cast<std::size_t>(settings_.windows_of_batch)) {
    const std::size_t end =
        std::min(order.size(), begin + static_cast<std::size_t>(settings_.windows_of_batch));
    std::fill(gradient.begin(), gradient.end(), 0.0f);
    double total = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const StageSamples& window = training_[order[i]];
      const std::span<const float> scores = pass_.forward(next.mlp, window.inputs);
      dscores.assign(scores.size(), 0.0f);
      const ScoreLoss loss = score_loss(scores, window.targets, settings_.loss,
                                        1.0 / static_cast<double>(end - begin), random, dscores);
      pass_.backward(next.mlp, window.inputs, dscores, gradient);
      losses.training.squares += loss.squares / static_cast<double>(order.size());
      losses.training.rank += loss.rank / static_cast<double>(order.size());
      total += loss.squares + loss.rank;
    }
    check_loss(total, state.epoch, begin / static_cast<std::size_t>(settings_.windows_of_batch) + 1);
    next.adam.step(next.mlp.parameters, gradient, static_cast<float>(rate),
                   static_cast<float>(settings_.decay));
  }
  const EpochLosses validation = validate(next, next.mlp);
  check_loss(validation.validation_lost, state.epoch,
             (order.size() - 1) / static_cast<std::size_t>(settings_.windows_of_batch) + 1);
  losses.validation_lost = validation.validation_lost;
  losses.validation_correlation = validation.validation_correlation;
  ++next.epoch;
  if (losses.validation_lost < next.best_lost) {
    next.best = next.mlp;
    next.best_lost = losses.validation_lost;
    next.best_epoch = next.epoch;
  }
  next.finished = next.epoch >= settings_.epochs || next.epoch - next.best_epoch >= settings_.patience;
  next.curve.push_back(fmt::format(
      "stage {} epoch {}: squares {:.4f}, rank {:.4f}, validation: {:.4f} lost, rank correlation {:.4f}",
      stage_, next.epoch, losses.training.squares, losses.training.rank, losses.validation_lost,
      losses.validation_correlation));
  state = std::move(next);
  return losses;
}

EpochLosses ScorerTraining::validate(const ScorerState& state, const Mlp& mlp) {
  normalise(state);
  EpochLosses losses;
  for (const StageSamples& window : validation_) {
    const std::span<const float> scores = pass_.forward(mlp, window.inputs);
    for (const float score : scores) {
      if (!std::isfinite(score)) losses.validation_lost = NAN;
    }
    std::vector<float> mass;
    for (const float target : window.targets)
      mass.push_back(std::max(0.0f, std::exp(target) - static_cast<float>(kTargetFloor)));
    losses.validation_lost +=
        (1 - mass_kept(scores, mass, settings_.keep)) / static_cast<double>(validation_.size());
    losses.validation_correlation +=
        rank_correlation(scores, window.targets) / static_cast<double>(validation_.size());
  }
  return losses;
}

Mlp folded_scorer(const ScorerState& state) {
  Mlp mlp = state.best;
  for (std::int64_t row = 0; row < mlp.inner; ++row) {
    double shift = 0;
    for (std::int64_t i = 0; i < mlp.inputs; ++i) {
      float& weight = mlp.w1()[row * mlp.inputs + i];
      weight *= state.input_scale[i];
      shift += double{weight} * state.input_mean[i];
    }
    mlp.b1()[row] -= static_cast<float>(shift);
  }
  for (float& weight : mlp.w2()) weight /= state.target_scale;
  mlp.b2() = mlp.b2() / state.target_scale + state.target_mean;
  return mlp;
}

}  // namespace winnow
