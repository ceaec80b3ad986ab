// What the saliency pass of training costs: forward, loss over all tokens and backward of a window
// (train/token_targets.h, gradient), beside the forward pass and the loss alone, in f32 and bf16, and beside
// the engine's own f32 prefill with the logits of all tokens. Medians; they take turns.
//   build/release/bin/training_speed MODEL TEXT [TOKENS [ROUNDS [THREADS]]]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/session.h"
#include "sparsity/policy.h"
#include "text_tokens.h"
#include "train/model_pass.h"
#include "train/token_targets.h"

namespace winnow {
namespace {

double seconds(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// What is timed of one engine.
struct Side {
  Side(const char* model, Precision precision, int threads)
      : engine(Engine::open({.model = model,
                             .random_weights = "",
                             .precision = precision,
                             .threads = threads,
                             .progress = {}})),
        pass(*engine) {}

  void prefill(std::span<const TokenId> tokens) const {
    Session session(*engine);
    PrefillOptions options;
    options.all_logits = [](std::int64_t, const MatrixView&) {};
    session.prefill(tokens, Policy{}, options);
  }
  void forward(std::span<const TokenId> tokens) {
    pass.forward(tokens, {.before_layer = {}, .probs_of = {}, .keep_activations = false});
    pass.loss({.gradient = false});
  }
  void saliency(const TrainingWindow& window, const std::vector<std::int64_t>& stages) {
    token_targets(pass, window, stages, TargetKind::kGradient, {});
  }

  std::unique_ptr<Engine> engine;
  ModelPass pass;
};

int run(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: training_speed MODEL TEXT [TOKENS [ROUNDS [THREADS]]]\n");
    return 2;
  }
  const std::int64_t count = argc > 3 ? std::atoi(argv[3]) : 512;
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 7, threads = argc > 5 ? std::atoi(argv[5]) : 0;
  std::vector<TokenId> tokens = text_tokens(argv[1], argv[2], count);
  tokens.resize(static_cast<std::size_t>(count));
  const TrainingWindow window{tokens, count - 1, false};

  Side f32(argv[1], Precision::kF32, threads), bf16(argv[1], Precision::kBF16, threads);
  std::vector<std::int64_t> stages;
  for (const Stage& stage : parse_policy("keep08", f32.engine->facts()).tokens.stages)
    stages.push_back(stage.layer);
  const std::vector<std::pair<const char*, std::function<void()>>> parts{
      {"f32 forward and loss", [&] { f32.forward(tokens); }},
      {"f32 prefill with all logits", [&] { f32.prefill(tokens); }},
      {"f32 saliency of the stages of keep08", [&] { f32.saliency(window, stages); }},
      {"f32 saliency of every layer", [&] { f32.saliency(window, {0}); }},
      {"bf16 forward and loss", [&] { bf16.forward(tokens); }},
      {"bf16 saliency of the stages of keep08", [&] { bf16.saliency(window, stages); }}};
  std::vector<std::vector<double>> samples(parts.size());
  for (int round = -1; round < rounds; ++round) {  // the first warms up
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const double took = seconds(parts[i].second);
      if (round >= 0) samples[i].push_back(took);
    }
  }
  fmt::print("{} tokens, {} rounds\n", count, rounds);
  double base = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::sort(samples[i].begin(), samples[i].end());
    const double median = samples[i][samples[i].size() / 2];
    if (i == 0) base = median;
    fmt::print("{:40} {:8.1f} ms ({:.1f} to {:.1f})  {:.2f}x the first\n", parts[i].first, 1000 * median,
               1000 * samples[i].front(), 1000 * samples[i].back(), median / base);
  }
  return 0;
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  try {
    return winnow::run(argc, argv);
  } catch (const winnow::Error& error) {
    fmt::print(stderr, "training_speed: {}\n", error.what());
    return 1;
  }
}
