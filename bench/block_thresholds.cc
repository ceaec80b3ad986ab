// Thresholds of blocks for each head from gradients: what a head's errors do to the model's predictions is
// taken from the model itself instead of from passes with a layer cut (`winnow calibrate`). Writes one policy
// file for each density: blocks alone, no tokens dropped.
//
//   block_thresholds -m MODEL -f TEXT... -o FOLDER [--densities 0.25,0.2] [--windows 8] [--length 4096]
//                    [--q-block 32 --k-block 16 --pool 16 --outliers 2 --query-stride 8] [--seed 1]
//
// Of each window a pass forward and back gives the gradient of the loss of tokens drawn from the model's own
// predictions in its second half; a prefill then compares every head's output at 9 thresholds with the dense
// one (calibrate/block_calibration.h).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "calibrate/block_calibration.h"
#include "core/mapped_file.h"
#include "eval/window_workload.h"
#include "sparsity/selector.h"
#include "train/model_pass.h"

namespace winnow {
namespace {

struct Options {
  std::string model, folder;
  std::vector<std::string> texts;
  std::vector<double> densities = {0.3, 0.25, 0.2, 0.15};
  std::int64_t windows = 8, length = 4096;
  std::int64_t q_block = 32, k_block = 16, pool = 16, outliers = 2, query_stride = 8;
  std::uint64_t seed = 1;
};

AttentionPolicy attention_of(const Options& options) {
  AttentionPolicy attention = attention_policy(SelectorKind::kPooled);
  attention.rule.criterion = BlockCriterion::kMaximum;
  attention.rule.q_block = options.q_block;
  attention.rule.k_block = options.k_block;
  attention.rule.pool = options.pool;
  attention.rule.outliers = options.outliers;
  attention.rule.query_stride = options.query_stride;
  attention.dense_last_tokens = 32;
  return attention;
}

// Of one window at a time, all layers.
class Gradients {
 public:
  Gradients(const Engine& engine, const std::vector<std::vector<TokenId>>& windows, std::uint64_t seed)
      : pass_(engine), windows_(windows), seed_(seed) {
    layers_.resize(static_cast<std::size_t>(engine.arch().layers));
  }

  MatrixView of(std::size_t window, std::int64_t layer) {
    if (!computed_ || window != window_) compute(window);
    const std::int64_t cols = pass_.engine().arch().q_dim();
    return {layers_[layer].data(), DType::kF32, std::ssize(layers_[layer]) / cols, cols};
  }

 private:
  void compute(std::size_t window) {
    const auto tokens = std::ssize(windows_[window]);
    const WindowLoss loss{.first_row = tokens / 2, .own_targets = seed_ + window};
    const auto counted = static_cast<double>(tokens - 1 - loss.first_row);
    pass_.forward(windows_[window], {});
    fmt::print(stderr, "window {}: loss {:.3f}\n", window, pass_.loss(loss));
    ModelPass::BackwardOptions options;
    options.at_attention = [&](const LayerView& view) {
      std::vector<float>& layer = layers_[view.layer];
      layer.clear();
      // The pass has the gradient of the mean.
      const auto scale = static_cast<float>(std::sqrt(counted));
      for (std::int64_t row = 0; row < view.gradient.rows; ++row) {
        const float* gradient = view.gradient.row<float>(row);
        for (std::int64_t i = 0; i < view.gradient.cols; ++i) layer.push_back(gradient[i] * scale);
      }
    };
    pass_.backward(options);
    window_ = window;
    computed_ = true;
  }

  ModelPass pass_;
  const std::vector<std::vector<TokenId>>& windows_;
  std::uint64_t seed_;
  std::vector<std::vector<float>> layers_;  // [layers][tokens, q_dim]
  std::size_t window_ = 0;
  bool computed_ = false;
};

void write_policy(const Engine& engine, const Options& options, const BlockCurves& curves, double density) {
  const ThresholdChoice choice = choose_thresholds(curves, density);
  Policy policy;
  policy.attention = attention_of(options);
  policy.attention.thresholds = choice.thresholds;
  policy.model_name = engine.facts().name;
  policy.shape_hash = engine.facts().shape_hash;
  policy.model_layers = engine.facts().layers;
  const std::string path =
      (std::filesystem::path(options.folder) / fmt::format("blocks-{:g}.json", density)).string();
  std::ofstream(path) << policy_to_json(policy).dump(2) << "\n";
  fmt::print("{}: density {:.3f}, predicted KL {:.5f}\n", path, choice.density, choice.loss);
}

int run(const Options& options) {
  const auto engine = Engine::open({.model = options.model, .random_weights = "", .progress = {}});
  std::vector<EvalText> texts;
  for (const std::string& path : options.texts) {
    texts.push_back({path, std::string(MappedFile(path).text())});
  }
  const PromptEncoder encoder(engine->tokenizer(), /*plain=*/true);
  CurveSettings settings;
  settings.attention = attention_of(options);
  settings.windows = cut_windows(encoder, texts, options.length, options.windows).windows;
  Gradients gradients(*engine, settings.windows, options.seed);
  settings.gradients = [&](std::size_t window, std::int64_t layer) { return gradients.of(window, layer); };
  BlockCurves curves;
  measure_block_curves(*engine, settings, {}, {}, curves);
  std::filesystem::create_directories(options.folder);
  std::ofstream(std::filesystem::path(options.folder) / "curves.json") << to_json(curves);
  for (const double density : options.densities) write_policy(*engine, options, curves, density);
  return 0;
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  winnow::Options options;
  CLI::App app{"Thresholds of blocks for each head, from gradients"};
  app.add_option("-m", options.model)->required();
  app.add_option("-f", options.texts)->required();
  app.add_option("-o", options.folder)->required();
  app.add_option("--densities", options.densities)->delimiter(',');
  app.add_option("--windows", options.windows);
  app.add_option("--length", options.length);
  app.add_option("--q-block", options.q_block);
  app.add_option("--k-block", options.k_block);
  app.add_option("--pool", options.pool);
  app.add_option("--outliers", options.outliers);
  app.add_option("--query-stride", options.query_stride);
  app.add_option("--seed", options.seed);
  CLI11_PARSE(app, argc, argv);
  try {
    return winnow::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "block_thresholds: {}\n", error.what());
    return 1;
  }
}
