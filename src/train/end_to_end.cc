#include "train/end_to_end.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"
#include "core/error.h"
#include "eval/text_random.h"
#include "sparsity/token_pruner.h"
#include "train/input_catcher.h"

namespace winnow {

// What one stage decided about a window.
struct EndToEnd::StageRun {
  std::int64_t stage = 0;
  std::vector<std::int64_t> alive;  // before the stage, ascending
  std::vector<float> rows, scores;  // [alive, columns], [alive]
  std::vector<float> slopes;        // [alive] d mask / d score
  std::vector<bool> kept;           // [alive]
};

EndToEnd::EndToEnd(ModelPass& pass, const EndToEndSettings& settings, const SampleSettings& samples)
    : pass_(pass), settings_(settings), samples_(samples), mlp_pass_(pass.engine().backend(), pass.ops()) {}

EndToEnd::~EndToEnd() = default;

// Keeps the tokens with the highest scores and says how the mask would move with them.
void EndToEnd::decide(const Mlp& scorer, const TrainingWindow& window, std::int64_t stage,
                      std::vector<float> rows, double noise, std::uint64_t seed) {
  StageRun& run = runs_.back();
  run.rows = std::move(rows);
  const std::span<const float> scores = mlp_pass_.forward(scorer, run.rows);
  run.scores.assign(scores.begin(), scores.end());
  const std::int64_t tokens = std::ssize(run.scores);
  double mean = 0, squares = 0;
  for (const float score : run.scores) mean += score / static_cast<double>(tokens);
  for (const float score : run.scores)
    squares += (score - mean) * (score - mean) / static_cast<double>(tokens);
  const double spread = std::sqrt(squares) + 1e-6;
  std::vector<float> noisy = run.scores;
  TextRandom random(seed, "noise", window.context, stage);
  for (float& score : noisy) {
    const double u = std::clamp(random.share(), 1e-6, 1 - 1e-6);
    if (noise > 0) score += static_cast<float>(noise * spread * std::log(u / (1 - u)));
  }
  const auto found = std::find_if(settings_.policy.stages.begin(), settings_.policy.stages.end(),
                                  [&](const Stage& s) { return s.layer == stage; });
  StageRecord record;
  const std::vector<std::int64_t> kept = select_tokens(noisy, *found, settings_.policy, record);
  run.kept.assign(static_cast<std::size_t>(tokens), false);
  for (const std::int64_t i : kept) run.kept[static_cast<std::size_t>(i)] = true;
  // Between the lowest score kept and the highest dropped, among the tokens that could go either way.
  float low = INFINITY, high = -INFINITY;
  const std::int64_t first = std::min(settings_.policy.protect_head, tokens),
                     last = tokens - (protected_count(tokens, settings_.policy) - first);
  for (std::int64_t i = first; i < last; ++i) {
    if (run.kept[i]) low = std::min(low, noisy[i]);
    if (!run.kept[i]) high = std::max(high, noisy[i]);
  }
  run.slopes.assign(static_cast<std::size_t>(tokens), 0.0f);
  if (!std::isfinite(low) || !std::isfinite(high)) return;  // all or nothing: no score could change that
  const double threshold = (static_cast<double>(low) + high) / 2, width = settings_.temperature * spread;
  for (std::int64_t i = first; i < last; ++i) {
    const double soft = 1 / (1 + std::exp(-(noisy[i] - threshold) / width));
    run.slopes[i] = static_cast<float>(soft * (1 - soft) / width);
  }
}

double EndToEnd::run(const std::map<std::int64_t, Mlp>& scorers, const TrainingWindow& window, double noise,
                     std::uint64_t seed, bool gradient) {
  const Architecture& arch = pass_.engine().arch();
  const WindowLoss what{.first_row = window.context - 1, .gradient = false};
  // Dense first: what the pruned model is measured against.
  const bool with_targets = gradient && settings_.scores_weight > 0;
  if (with_targets) {
    targets_ = token_targets(pass_, window, samples_.stages, TargetKind::kAttentionMax, {});
  } else if (settings_.loss == EndToEndLoss::kKl) {
    ModelPass::ForwardOptions dense;
    dense.keep_activations = false;
    pass_.forward(window.tokens, dense);
  }
  if (settings_.loss == EndToEndLoss::kKl) {
    WindowLoss teacher = what;
    teacher.keep_logits = &teacher_;
    pass_.loss(teacher);
  }

  InputCatcher catcher(arch, window.context, samples_);
  std::vector<float> mask(window.tokens.size(), 1.0f);
  runs_.clear();
  ModelPass::ForwardOptions options;
  options.keep_activations = gradient;
  options.probs_of = [&](std::int64_t layer) { return catcher.probs_of(layer); };
  options.before_layer = [&](std::int64_t layer, const MatrixView& hidden) {
    catcher.before_layer(layer, hidden);
    const auto scorer = scorers.find(layer);
    if (scorer == scorers.end()) return;
    runs_.push_back(
        {.stage = layer, .alive = catcher.alive(), .rows = {}, .scores = {}, .slopes = {}, .kept = {}});
    decide(scorer->second, window, layer, catcher.rows(layer), noise, seed);
    std::vector<std::int64_t> alive;
    for (std::size_t i = 0; i < runs_.back().alive.size(); ++i) {
      const std::int64_t token = runs_.back().alive[i];
      if (runs_.back().kept[i]) alive.push_back(token);
      mask[token] = runs_.back().kept[i] ? 1.0f : 0.0f;
    }
    catcher.keep(std::move(alive));
    pass_.set_keep(mask);
  };
  pass_.forward(window.tokens, options);
  WindowLoss pruned = what;
  pruned.gradient = gradient;
  if (settings_.loss == EndToEndLoss::kKl) pruned.teacher = &teacher_;
  const double loss = pass_.loss(pruned);
  if (gradient) pass_.backward({.at_input = {}, .at_attention = {}, .first_layer = samples_.stages.front()});
  return loss;
}

double EndToEnd::step(EndToEndState& state, const TrainingWindow& window) {
  EndToEndState next = state;
  const double left =
      1 - static_cast<double>(state.step) / static_cast<double>(std::max<std::int64_t>(1, settings_.steps));
  const std::uint64_t seed = settings_.seed * 7919 + static_cast<std::uint64_t>(state.step);
  const double loss = run(next.scorers, window, settings_.noise * left, seed, true);
  if (!std::isfinite(loss)) {
    fail(ErrorCode::kUnsupported,
         "end to end: the loss is not finite in step {}: lower --rate; the last checkpoint is kept",
         state.step + 1);
  }
  // How the loss moves with the mask of a token at a stage: through the layers up to the next stage, and
  // through later stages' layers if it is still there.
  std::vector<std::vector<float>> of_mask;
  for (std::size_t i = 0; i < runs_.size(); ++i)
    of_mask.emplace_back(pass_.keep_gradient(i).begin(), pass_.keep_gradient(i).end());
  for (std::size_t i = runs_.size(); i-- > 1;) {
    for (std::size_t j = 0; j < runs_[i].alive.size(); ++j) {
      if (runs_[i].kept[j]) of_mask[i - 1][runs_[i].alive[j]] += of_mask[i][runs_[i].alive[j]];
    }
  }
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    const StageRun& run = runs_[i];
    Mlp& mlp = next.scorers.at(run.stage);
    mlp_pass_.forward(mlp, run.rows);
    std::vector<float> dscores(run.scores.size()), gradient(mlp.parameters.size());
    if (settings_.scores_weight > 0) {
      std::vector<float> targets;
      double mean = 0;
      for (const std::int64_t token : run.alive)
        mean += targets_[i][token] / static_cast<double>(run.alive.size());
      for (const std::int64_t token : run.alive)
        targets.push_back(static_cast<float>(std::log(targets_[i][token] / (mean + 1e-30) + 1e-3)));
      TextRandom random(seed, "pairs", window.context, run.stage);
      score_loss(run.scores, targets, settings_.score_loss, settings_.scores_weight, random, dscores);
    }
    for (std::size_t j = 0; j < run.alive.size(); ++j) dscores[j] += run.slopes[j] * of_mask[i][run.alive[j]];
    mlp_pass_.backward(mlp, run.rows, dscores, gradient);
    next.adam[run.stage].step(mlp.parameters, gradient,
                              static_cast<float>(settings_.rate * (0.1 + 0.9 * left)),
                              static_cast<float>(settings_.decay));
  }
  ++next.step;
  state = std::move(next);
  return loss;
}

double EndToEnd::validate(const std::map<std::int64_t, Mlp>& scorers,
                          const std::vector<TrainingWindow>& windows) {
  double total = 0;
  for (const TrainingWindow& window : windows) total += run(scorers, window, 0.0, 0, false);
  return total / static_cast<double>(windows.size());
}

}  // namespace winnow
