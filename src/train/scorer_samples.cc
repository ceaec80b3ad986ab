#include "train/scorer_samples.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/atomic_file.h"
#include "core/error.h"
#include "eval/text_random.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"
#include "train/input_catcher.h"

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

WindowSamples collect_samples(ModelPass& pass, const TrainingWindow& window, const SampleSettings& settings,
                              std::uint64_t seed) {
  InputCatcher catcher(pass.engine().arch(), window.context, settings);
  const auto targets = token_targets(pass, window, settings.stages, settings.target, catcher.hooks());
  const auto tail = static_cast<std::int64_t>(settings.protect_tail * static_cast<double>(window.context));
  const std::int64_t begin = std::min(settings.protect_head, window.context - 1),
                     end = std::max(begin + 1, window.context - tail);
  WindowSamples samples;
  samples.retrieval = window.retrieval;
  for (std::size_t i = 0; i < settings.stages.size(); ++i) {
    const std::int64_t stage = settings.stages[i];
    TextRandom random(seed, "samples", window.context, stage);
    const std::vector<float> rows = catcher.rows(stage);
    const std::int64_t columns = std::ssize(rows) / window.context;
    double mean = 0;
    for (std::int64_t j = begin; j < end; ++j) mean += targets[i][j] / static_cast<double>(end - begin);
    StageSamples& own = samples.stages.emplace_back();
    for (const std::int64_t j : sampled(targets[i], begin, end, settings.tokens_of_window, random)) {
      own.inputs.insert(own.inputs.end(), rows.begin() + j * columns, rows.begin() + (j + 1) * columns);
      own.targets.push_back(static_cast<float>(std::log(targets[i][j] / (mean + 1e-30) + 1e-3)));
    }
  }
  return samples;
}

void save_samples(const std::string& path, const WindowSamples& samples, const SampleSettings& settings) {
  std::vector<TensorToWrite> tensors;
  for (std::size_t i = 0; i < samples.stages.size(); ++i) {
    const StageSamples& own = samples.stages[i];
    const std::int64_t tokens = std::ssize(own.targets);
    tensors.push_back(
        {tensor_name(settings.stages[i], "inputs"), {tokens, std::ssize(own.inputs) / tokens}, own.inputs});
    tensors.push_back({tensor_name(settings.stages[i], "targets"), {tokens}, own.targets});
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
