#include "train/scorer_samples.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/atomic_file.h"
#include "core/error.h"
#include "eval/text_random.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"
#include "sparsity/token_pruner.h"
#include "train/input_catcher.h"
#include "train/pruned_forward.h"

namespace winnow {
namespace {

// Half of them the largest, the others at random; ascending.
std::vector<std::int64_t> sampled(const std::vector<float>& targets, std::int64_t begin, std::int64_t end,
                                  std::int64_t count, TextRandom& random) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(end - begin));
  std::iota(tokens.begin(), tokens.end(), begin);
  if (count == 0 || count >= std::ssize(tokens)) return tokens;
  std::stable_sort(tokens.begin(), tokens.end(),
                   [&](std::int64_t a, std::int64_t b) { return targets[a] > targets[b]; });
  std::vector<std::int64_t> rest(tokens.begin() + count / 2, tokens.end());
  random.shuffle(rest);
  std::copy_n(rest.begin(), count - count / 2, tokens.begin() + count / 2);
  tokens.resize(static_cast<std::size_t>(count));
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

// The tokens that a stage may drop, [begin, end); one where there is none, so that a window has samples.
std::pair<std::int64_t, std::int64_t> droppable(std::int64_t tokens, const TokenPolicy& policy) {
  const ProtectedEnds ends = protected_ends(tokens, policy);
  const std::int64_t begin = std::min(ends.head, tokens - 1);
  return {begin, std::max(begin + 1, ends.tail)};
}

StageSamples stage_samples(const std::vector<float>& rows, const std::vector<float>& targets,
                           const SampleSettings& settings, TextRandom& random) {
  const auto [begin, end] = droppable(std::ssize(targets), settings.policy);
  const std::int64_t columns = std::ssize(rows) / std::ssize(targets);
  StageSamples samples;
  for (const std::int64_t i : sampled(targets, begin, end, settings.tokens_of_window, random)) {
    samples.inputs.insert(samples.inputs.end(), rows.begin() + i * columns, rows.begin() + (i + 1) * columns);
    samples.targets.push_back(targets[i]);
  }
  return samples;
}

std::string tensor_name(std::int64_t stage, const char* what) {
  return fmt::format("stage.{}.{}", stage, what);
}

std::vector<float> read_tensor(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsTensor* tensor = file.find(name);
  if (tensor == nullptr || tensor->dtype != DType::kF32)
    fail(ErrorCode::kBadFormat, "{}: no samples in it: {} is missing", file.path(), name);
  std::vector<float> values(tensor->data.size() / sizeof(float));
  std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
  return values;
}

}  // namespace

std::vector<std::int64_t> SampleSettings::stages() const {
  std::vector<std::int64_t> layers;
  for (const Stage& stage : policy.stages) layers.push_back(stage.layer);
  return layers;
}

std::vector<float> relative_logarithms(const std::vector<float>& targets, const TokenPolicy& policy) {
  const auto [begin, end] = droppable(std::ssize(targets), policy);
  double mean = 0;
  for (std::int64_t i = begin; i < end; ++i) mean += targets[i] / static_cast<double>(end - begin);
  std::vector<float> result;
  for (const float target : targets)
    result.push_back(static_cast<float>(std::log(target / (mean + 1e-30) + kTargetFloor)));
  return result;
}

WindowSamples collect_samples(ModelPass& pass, const TrainingWindow& window, const SampleSettings& settings,
                              std::uint64_t seed) {
  const std::vector<std::int64_t> stages = settings.stages();
  const auto targets = token_targets(pass, window, stages, settings.target, {});
  InputCatcher catcher(pass.engine().arch(), window.context, settings);
  WindowSamples samples;
  samples.retrieval = window.retrieval;
  const auto choose = [&](std::int64_t layer) {
    const std::size_t i = samples.stages.size();
    std::vector<float> own;
    for (const std::int64_t token : catcher.alive())
      own.push_back(targets[i][static_cast<std::size_t>(token)]);
    TextRandom random(seed, "samples", window.context, layer);
    const std::vector<float> logarithms = relative_logarithms(own, settings.policy);
    samples.stages.push_back(stage_samples(catcher.rows(layer), logarithms, settings, random));
    StageRecord ignored;
    return select_tokens(with_noise(logarithms, settings.noise * spread_of(logarithms), random),
                         settings.policy.stages[i], settings.policy, ignored);
  };
  ModelPass::ForwardOptions options;
  options.layers = stages.back() + 1;
  options.keep_activations = false;
  pruned_forward(pass, window, catcher, stages, choose, options);
  return samples;
}

void save_samples(const std::string& path, const WindowSamples& samples, const SampleSettings& settings) {
  std::vector<TensorToWrite> tensors;
  for (std::size_t i = 0; i < samples.stages.size(); ++i) {
    const StageSamples& own = samples.stages[i];
    const std::int64_t tokens = std::ssize(own.targets);
    tensors.push_back({tensor_name(settings.policy.stages[i].layer, "inputs"),
                       {tokens, std::ssize(own.inputs) / tokens},
                       own.inputs});
    tensors.push_back({tensor_name(settings.policy.stages[i].layer, "targets"), {tokens}, own.targets});
  }
  write_file_atomically(path, safetensors_bytes(tensors, {{"retrieval", samples.retrieval ? "1" : "0"}}));
}

StageSamples load_samples(const std::string& path, std::int64_t stage, std::int64_t columns) {
  const SafetensorsFile file(path);
  StageSamples samples{read_tensor(file, tensor_name(stage, "inputs")),
                       read_tensor(file, tensor_name(stage, "targets"))};
  if (std::ssize(samples.inputs) != std::ssize(samples.targets) * columns)
    fail(ErrorCode::kBadFormat, "{}: samples of other settings", path);
  return samples;
}

}  // namespace winnow
