#include "train/end_to_end.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/error.h"
#include "sparsity/token_pruner.h"
#include "train/input_catcher.h"
#include "train/pruned_forward.h"

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

// Which of run.alive stay, those with the highest scores, and how the mask would move with the scores.
std::vector<std::int64_t> EndToEnd::decide(StageRun& run, const Mlp& scorer, double noise,
                                           TextRandom& random) {
  const TokenPolicy& policy = samples_.policy;
  const std::span<const float> scores = mlp_pass_.forward(scorer, run.rows);
  run.scores.assign(scores.begin(), scores.end());
  const std::int64_t tokens = std::ssize(run.scores);
  const double spread = spread_of(run.scores);
  const std::vector<float> noisy = with_noise(run.scores, noise * spread, random);
  const auto stage = std::find_if(policy.stages.begin(), policy.stages.end(),
                                  [&](const Stage& s) { return s.layer == run.stage; });
  StageRecord record;
  std::vector<std::int64_t> kept = select_tokens(noisy, *stage, policy, record);
  run.kept.assign(static_cast<std::size_t>(tokens), false);
  for (const std::int64_t i : kept) run.kept[static_cast<std::size_t>(i)] = true;
  // Between the lowest score kept and the highest dropped, among the tokens that could go either way.
  float low = INFINITY, high = -INFINITY;
  const auto [first, last] = protected_ends(tokens, policy);
  for (std::int64_t i = first; i < last; ++i) {
    if (run.kept[i]) low = std::min(low, noisy[i]);
    if (!run.kept[i]) high = std::max(high, noisy[i]);
  }
  run.slopes.assign(static_cast<std::size_t>(tokens), 0.0f);
  if (!std::isfinite(low) || !std::isfinite(high)) return kept;  // all or nothing: no score could change that
  const double threshold = (static_cast<double>(low) + high) / 2, width = settings_.temperature * spread;
  for (std::int64_t i = first; i < last; ++i) {
    const double soft = 1 / (1 + std::exp(-(noisy[i] - threshold) / width));
    run.slopes[i] = static_cast<float>(soft * (1 - soft) / width);
  }
  return kept;
}

double EndToEnd::run(const std::map<std::int64_t, Mlp>& scorers, const TrainingWindow& window, double noise,
                     std::uint64_t seed, bool gradient) {
  const Architecture& arch = pass_.engine().arch();
  const WindowLoss what{.first_row = window.context - 1, .gradient = false};
  // Dense first: what the pruned model is measured against.
  const bool with_targets = gradient && settings_.scores_weight > 0;
  if (with_targets) {
    const TargetKind kind = needs_gradients(samples_.target) ? TargetKind::kAttentionMax : samples_.target;
    targets_ = token_targets(pass_, window, samples_.stages(), kind, {});
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
  runs_.clear();
  const auto choose = [&](std::int64_t stage) {
    StageRun& run = runs_.emplace_back();
    run.stage = stage;
    run.alive = catcher.alive();
    run.rows = catcher.rows(stage);
    TextRandom random(seed, "noise", window.context, stage);
    return decide(run, scorers.at(stage), noise, random);
  };
  ModelPass::ForwardOptions options;
  options.keep_activations = gradient;
  pruned_forward(pass_, window, catcher, samples_.stages(), choose, options);
  WindowLoss pruned = what;
  pruned.gradient = gradient;
  if (settings_.loss == EndToEndLoss::kKl) pruned.teacher = &teacher_;
  const double loss = pass_.loss(pruned);
  // Scores that are not finite prune by recency, and the loss would not show it.
  for (const StageRun& run : runs_) {
    for (const float score : run.scores) {
      if (!std::isfinite(score)) return NAN;
    }
  }
  if (gradient)
    pass_.backward({.at_input = {}, .at_attention = {}, .first_layer = samples_.policy.stages.front().layer});
  return loss;
}

// How the loss moves with the mask of a token at each stage: through the layers up to the next stage and, as
// far as the token would still be there, through those behind it. A token that was dropped would pass later
// stages as often as others do: without that an early stage would never learn of tokens that only late
// layers look for.
std::vector<std::vector<float>> EndToEnd::mask_gradients() const {
  std::vector<std::vector<float>> of_mask;
  for (std::size_t i = 0; i < runs_.size(); ++i)
    of_mask.emplace_back(pass_.keep_gradient(i).begin(), pass_.keep_gradient(i).end());
  for (std::size_t i = runs_.size(); i-- > 1;) {
    std::vector<float> stays(of_mask[i].size(), static_cast<float>(samples_.policy.stages[i].keep));
    for (std::size_t j = 0; j < runs_[i].alive.size(); ++j)
      stays[runs_[i].alive[j]] = runs_[i].kept[j] ? 1.0f : 0.0f;
    for (std::size_t token = 0; token < stays.size(); ++token)
      of_mask[i - 1][token] += stays[token] * of_mask[i][token];
  }
  return of_mask;
}

void EndToEnd::check_loss(double loss, std::int64_t step) {
  if (std::isfinite(loss)) return;
  fail(ErrorCode::kUnsupported,
       "end to end: the loss is not finite in step {}: lower --end-to-end-rate; the last checkpoint is kept",
       step);
}

double EndToEnd::step(EndToEndState& state, const TrainingWindow& window) {
  EndToEndState next = state;
  const double left =
      1 - static_cast<double>(state.step) / static_cast<double>(std::max<std::int64_t>(1, settings_.steps));
  const std::uint64_t seed = settings_.seed * 7919 + static_cast<std::uint64_t>(state.step);
  const double loss = run(next.scorers, window, settings_.noise * left, seed, true);
  check_loss(loss, state.step + 1);
  const std::vector<std::vector<float>> of_mask = mask_gradients();
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    const StageRun& run = runs_[i];
    Mlp& mlp = next.scorers.at(run.stage);
    mlp_pass_.forward(mlp, run.rows);
    std::vector<float> dscores(run.scores.size()), gradient(mlp.parameters.size());
    if (settings_.scores_weight > 0) {
      std::vector<float> own;
      for (const std::int64_t token : run.alive) own.push_back(targets_[i][token]);
      const std::vector<float> targets = relative_logarithms(own, samples_.policy);
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
