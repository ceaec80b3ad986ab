#include "calibrate/block_calibration.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/error.h"
#include "measures/distribution.h"
#include "measures/logit_file.h"
#include "measures/statistics.h"
#include "runtime/session.h"
#include "sparsity/selector.h"

namespace winnow {
namespace {

constexpr std::size_t kGridPoints = 9;
// By maximum: estimates of attention shares spread over orders of magnitude, and so must the thresholds.
constexpr double kLowestShare = 3e-4, kHighestShare = 0.5;
// By mass: what may be left out.
constexpr double kLeastLeft = 0.005, kMostLeft = 0.7;
// A layer's sensitivity is taken where about this share of it is left: enough error to stand above rounding.
constexpr double kProbeDensity = 0.12;

std::vector<float> threshold_grid(BlockCriterion criterion) {
  std::vector<float> grid;
  for (std::size_t i = 0; i < kGridPoints; ++i) {
    const double t = static_cast<double>(i) / (kGridPoints - 1);
    grid.push_back(static_cast<float>(criterion == BlockCriterion::kMaximum
                                          ? kLowestShare * std::pow(kHighestShare / kLowestShare, t)
                                          : 1 - kLeastLeft * std::pow(kMostLeft / kLeastLeft, t)));
  }
  return grid;
}

float element(const MatrixView& x, std::int64_t row, std::int64_t col) {
  return x.dtype == DType::kF32 ? x.row<float>(row)[col] : to_float(x.row<BF16>(row)[col]);
}

// The columns of one head in what attention gives.
struct HeadColumns {
  std::int64_t begin, end;
};

// Squared difference of one head's outputs, summed over the queries.
double squared_error(const MatrixView& a, const MatrixView& b, HeadColumns head) {
  double sum = 0;
  for (std::int64_t row = 0; row < a.rows; ++row) {
    for (std::int64_t d = head.begin; d < head.end; ++d) {
      const double difference = element(a, row, d) - element(b, row, d);
      sum += difference * difference;
    }
  }
  return sum;
}

// The same as the KL it costs: see CurveSettings::gradients, of which row i belongs to token first_token + i.
double kl_of_error(const MatrixView& a, const MatrixView& b, const MatrixView& gradients,
                   std::int64_t first_token, HeadColumns head) {
  double sum = 0;
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const float* gradient = gradients.row<float>(first_token + row);
    double change = 0;
    for (std::int64_t d = head.begin; d < head.end; ++d)
      change += gradient[d] * double{element(a, row, d) - element(b, row, d)};
    sum += change * change / 2;
  }
  return sum;
}

// Densities and errors of one window, added up as the prefill passes by.
class CurveObserver {
 public:
  CurveObserver(const Engine& engine, const CurveSettings& settings, BlockCurves& curves, std::size_t window)
      : engine_(engine),
        settings_(settings),
        curves_(curves),
        window_(window),
        tokens_(std::ssize(settings.windows[window])) {}

  void observe(const AttentionView& view) {
    Backend& backend = engine_.backend();
    const std::int64_t bytes = view.q.rows * view.q.row_bytes();
    if (bytes > bytes_) {
      dense_ = backend.allocate(bytes);
      sparse_ = backend.allocate(bytes);
      bytes_ = bytes;
    }
    curves_.pairs[view.layer] += visible_pairs(view.query_rows, view.kv->window(view.window));
    if (view.layer != layer_) {
      make_planners(view);
      layer_ = view.layer;
    }
    AttentionParams params{.q = view.q,
                           .query_rows = view.query_rows,
                           .kv = view.kv,
                           .scale = view.scale,
                           .out = {dense_.as<>(), view.q.dtype, view.q.rows, view.q.cols},
                           .window = view.window};
    backend.attention(params);
    const MatrixView dense = on_host(backend, params.out, dense_copy_);
    params.out.data = sparse_.as<>();
    for (std::size_t point = 0; point < curves_.grid.size(); ++point) {
      planners_[point]->plan(view.q, view.query_rows, plan_);
      params.plan = &plan_;
      backend.attention(params);
      add(view, point, dense, on_host(backend, params.out, sparse_copy_));
    }
  }

 private:
  void make_planners(const AttentionView& view) {
    planners_.clear();
    for (const float threshold : curves_.grid) {
      AttentionPolicy policy = settings_.attention;
      policy.thresholds = {{threshold}};
      BlockPlannerParams params = planner_params(policy, view.layer, {0, curves_.heads});
      params.kv = view.kv;
      params.scale = view.scale;
      params.window = view.window;
      params.dense_from_row = policy.dense_last_tokens > 0 ? tokens_ - policy.dense_last_tokens : -1;
      planners_.push_back(engine_.backend().make_planner(params));
    }
  }

  void add(const AttentionView& view, std::size_t point, const MatrixView& dense, const MatrixView& sparse) {
    const std::int64_t head_dim = engine_.arch().head_dim;
    const std::int64_t group = curves_.heads / plan_.heads;
    const MatrixView gradients =
        settings_.gradients ? settings_.gradients(window_, view.layer) : MatrixView{};
    for (std::int64_t head = 0; head < curves_.heads; ++head) {
      const HeadColumns columns{head * head_dim, (head + 1) * head_dim};
      const PlanWork work = plan_work(plan_, view.query_rows, head / group, view.kv->window(view.window));
      const std::size_t at = curves_.index(view.layer, head, point);
      curves_.density[at] += work.computed;
      curves_.error[at] += settings_.gradients
                               ? kl_of_error(dense, sparse, gradients, view.query_rows[0], columns)
                               : squared_error(dense, sparse, columns);
    }
  }

  const Engine& engine_;
  const CurveSettings& settings_;
  BlockCurves& curves_;
  std::size_t window_;
  std::int64_t tokens_;
  Buffer dense_, sparse_, dense_copy_, sparse_copy_;
  std::int64_t bytes_ = 0, layer_ = -1;
  std::vector<std::unique_ptr<BlockPlanner>> planners_;  // [grid]
  BlockPlan plan_;
};

// Computed pairs become shares of the layer's, and the layers' pairs shares of their mean.
void normalise(BlockCurves& curves) {
  const auto per_layer = static_cast<std::size_t>(curves.heads) * curves.grid.size();
  for (std::size_t i = 0; i < curves.density.size(); ++i) curves.density[i] /= curves.pairs[i / per_layer];
  const double all = mean(curves.pairs);
  for (double& pairs : curves.pairs) pairs /= all;
}

// The grid point at which the layer as a whole is nearest to kProbeDensity.
std::size_t probe_point(const BlockCurves& curves, std::int64_t layer) {
  std::size_t best = 0;
  double nearest = std::numeric_limits<double>::infinity();
  for (std::size_t point = 0; point < curves.grid.size(); ++point) {
    double density = 0;
    for (std::int64_t head = 0; head < curves.heads; ++head) {
      density += curves.density[curves.index(layer, head, point)] / static_cast<double>(curves.heads);
    }
    if (std::abs(density - kProbeDensity) >= nearest) continue;
    nearest = std::abs(density - kProbeDensity);
    best = point;
  }
  return best;
}

// KL(dense || one layer cut), mean over the last kProbeTokens. Negative when cancelled.
constexpr std::int64_t kProbeTokens = 384;
class SensitivityProbe {
 public:
  SensitivityProbe(const Engine& engine, std::span<const TokenId> tokens)
      : engine_(engine),
        tokens_(tokens),
        first_(std::max(std::ssize(tokens) - kProbeTokens, std::ssize(tokens) / 2)),
        dense_(std::ssize(tokens) - first_, engine.arch().vocab),
        row_(static_cast<std::size_t>(engine.arch().vocab)) {}

  bool read_dense(const std::function<bool()>& cancelled) {
    return pass(Policy{}, cancelled,
                [&](std::int64_t row, std::span<const float> logits) { dense_.write(row, logits); });
  }

  double kl(const Policy& policy, const std::function<bool()>& cancelled) {
    double sum = 0;
    const bool done = pass(policy, cancelled, [&](std::int64_t row, std::span<const float> logits) {
      dense_.read(row, row_);
      sum += kl_divergence(row_, logits);
    });
    return done ? sum / static_cast<double>(dense_.rows()) : -1;
  }

 private:
  template <class Fn>
  bool pass(const Policy& policy, const std::function<bool()>& cancelled, Fn&& each_row) {
    Session session(engine_);
    PrefillOptions options;
    options.reserve_tokens = 0;
    options.cancelled = cancelled;
    options.all_logits_from = first_;
    options.all_logits = [&](std::int64_t first, const MatrixView& logits) {
      for (std::int64_t i = 0; i < logits.rows; ++i) {
        each_row(first + i - first_, {logits.row<float>(i), static_cast<std::size_t>(logits.cols)});
      }
    };
    return session.prefill(tokens_, policy, options);
  }

  const Engine& engine_;
  std::span<const TokenId> tokens_;
  std::int64_t first_;
  LogitFile dense_;
  std::vector<float> row_;
};

// The policy that cuts one layer at its probe point and leaves the others dense.
Policy cut_one_layer(const CurveSettings& settings, const BlockCurves& curves, std::int64_t layer) {
  Policy policy;
  policy.attention = settings.attention;
  policy.attention.gate = false;
  policy.attention.thresholds.assign(static_cast<std::size_t>(curves.layers), {0.0f});
  policy.attention.thresholds[layer] = {curves.grid[probe_point(curves, layer)]};
  return policy;
}

bool measure_sensitivity(const Engine& engine, const CurveSettings& settings,
                         const std::function<void(double)>& progress, const std::function<bool()>& cancelled,
                         BlockCurves& curves) {
  curves.sensitivity.assign(static_cast<std::size_t>(curves.layers), 0.0);
  const std::int64_t windows =
      std::min<std::int64_t>(settings.sensitivity_windows, std::ssize(settings.windows));
  for (std::int64_t w = 0; w < windows; ++w) {
    const std::vector<TokenId>& window = settings.windows[w];
    SensitivityProbe probe(engine,
                           std::span(window).first(std::min<std::size_t>(
                               window.size(), static_cast<std::size_t>(settings.sensitivity_tokens))));
    if (!probe.read_dense(cancelled)) return false;
    for (std::int64_t layer = 0; layer < curves.layers; ++layer) {
      if (progress) {
        progress(static_cast<double>(w * curves.layers + layer) /
                 static_cast<double>(windows * curves.layers));
      }
      const double kl = probe.kl(cut_one_layer(settings, curves, layer), cancelled);
      if (kl < 0) return false;
      curves.sensitivity[layer] += kl / static_cast<double>(windows);
    }
  }
  for (std::int64_t layer = 0; layer < curves.layers; ++layer) {
    double error = 0;
    for (std::int64_t head = 0; head < curves.heads; ++head) {
      error += curves.error[curves.index(layer, head, probe_point(curves, layer))];
    }
    curves.sensitivity[layer] /= std::max(error, 1e-12);
  }
  return true;
}

// A head's possible choices: grid points, finer steps between them, and the two ends.
struct Choice {
  float threshold;
  double density, error;
};

std::vector<Choice> choices_of(const BlockCurves& curves, std::int64_t layer, std::int64_t head) {
  constexpr int kSteps = 4;  // between two grid points: linear in ln(threshold)
  std::vector<Choice> choices{{0.0f, 1.0, 0.0}};
  double largest = 0;  // errors are made monotone: rounding noise must not make a denser choice look worse
  for (std::size_t i = 0; i < curves.grid.size(); ++i) {
    const std::size_t at = curves.index(layer, head, i);
    const Choice here{curves.grid[i], curves.density[at], std::max(largest, curves.error[at])};
    largest = here.error;
    if (i > 0) {
      const Choice before = choices.back();
      for (int step = 1; step < kSteps; ++step) {
        const double t = static_cast<double>(step) / kSteps;
        choices.push_back(
            {static_cast<float>(before.threshold * std::pow(here.threshold / before.threshold, t)),
             before.density + t * (here.density - before.density),
             before.error + t * (here.error - before.error)});
      }
    }
    choices.push_back(here);
  }
  return choices;
}

ThresholdChoice choose_at_price(const BlockCurves& curves, double price) {
  ThresholdChoice result;
  result.thresholds.resize(static_cast<std::size_t>(curves.layers));
  const double all = static_cast<double>(curves.layers * curves.heads);
  for (std::int64_t layer = 0; layer < curves.layers; ++layer) {
    for (std::int64_t head = 0; head < curves.heads; ++head) {
      const std::vector<Choice> choices = choices_of(curves, layer, head);
      const auto cost = [&](const Choice& choice) {
        return curves.sensitivity[layer] * choice.error + price * curves.pairs[layer] * choice.density;
      };
      const Choice& best = *std::min_element(choices.begin(), choices.end(),
                                             [&](const auto& a, const auto& b) { return cost(a) < cost(b); });
      result.thresholds[layer].push_back(best.threshold);
      result.density += curves.pairs[layer] * best.density / all;
      result.loss += curves.sensitivity[layer] * best.error;
    }
  }
  return result;
}

}  // namespace

bool measure_block_curves(const Engine& engine, const CurveSettings& settings,
                          const std::function<void(double)>& progress, const std::function<bool()>& cancelled,
                          BlockCurves& curves) {
  check(!settings.windows.empty(), "measure_block_curves: at least one window");
  if (!engine.backend().shares_host_memory()) {
    fail(ErrorCode::kUnsupported,
         "--device cuda: thresholds of heads are calibrated on the CPU, which counts blocks by head; use "
         "--device "
         "cpu");
  }
  const Architecture& arch = engine.arch();
  curves = {};
  curves.grid = threshold_grid(settings.attention.rule.criterion);
  curves.layers = arch.layers;
  curves.heads = arch.heads;
  curves.density.assign(static_cast<std::size_t>(arch.layers * arch.heads) * curves.grid.size(), 0.0);
  curves.error = curves.density;
  curves.pairs.assign(static_cast<std::size_t>(arch.layers), 0.0);
  constexpr double kCurveShare = 0.5;  // of the time, for progress only
  double queries = 0;
  for (std::size_t w = 0; w < settings.windows.size(); ++w) {
    const auto tokens = std::ssize(settings.windows[w]);
    CurveObserver observer(engine, settings, curves, w);
    Session session(engine);
    PrefillOptions options;
    options.reserve_tokens = 0;
    options.cancelled = cancelled;
    options.observe_attention = [&](const AttentionView& view) { observer.observe(view); };
    options.progress = [&](double done) {
      if (progress) {
        progress(kCurveShare * (static_cast<double>(w) + done) /
                 static_cast<double>(settings.windows.size()));
      }
    };
    if (!session.prefill(settings.windows[w], Policy{}, options)) return false;
    queries += static_cast<double>(tokens);
  }
  normalise(curves);
  if (settings.gradients) {
    for (double& error : curves.error) error /= static_cast<double>(settings.windows.size());
    curves.sensitivity.assign(static_cast<std::size_t>(arch.layers), 1.0);
    return true;
  }
  for (double& error : curves.error) error /= queries;
  if (settings.sensitivity_windows == 0) {
    curves.sensitivity.assign(static_cast<std::size_t>(curves.layers), 1.0);
    return true;
  }
  return measure_sensitivity(
      engine, settings,
      [&](double done) {
        if (progress) progress(kCurveShare + (1 - kCurveShare) * done);
      },
      cancelled, curves);
}

ThresholdChoice choose_thresholds(const BlockCurves& curves, double density) {
  double low = 1e-9, high = 1e6;  // prices; a higher one buys less density
  for (int i = 0; i < 80; ++i) {
    const double middle = std::sqrt(low * high);
    (choose_at_price(curves, middle).density > density ? low : high) = middle;
  }
  return choose_at_price(curves, high);
}

nlohmann::json to_json(const BlockCurves& curves) {
  return {{"grid", curves.grid},       {"layers", curves.layers}, {"heads", curves.heads},
          {"density", curves.density}, {"error", curves.error},   {"sensitivity", curves.sensitivity},
          {"pairs", curves.pairs}};
}

BlockCurves block_curves_from_json(const nlohmann::json& json) {
  BlockCurves curves;
  json.at("grid").get_to(curves.grid);
  json.at("layers").get_to(curves.layers);
  json.at("heads").get_to(curves.heads);
  json.at("density").get_to(curves.density);
  json.at("error").get_to(curves.error);
  json.at("sensitivity").get_to(curves.sensitivity);
  json.at("pairs").get_to(curves.pairs);
  const std::size_t expected = static_cast<std::size_t>(curves.layers * curves.heads) * curves.grid.size();
  if (curves.density.size() != expected || curves.error.size() != expected ||
      curves.sensitivity.size() != static_cast<std::size_t>(curves.layers) ||
      curves.pairs.size() != curves.sensitivity.size() || curves.grid.empty()) {
    fail(ErrorCode::kBadFormat, "curves of calibration: their sizes do not fit together");
  }
  return curves;
}

}  // namespace winnow
