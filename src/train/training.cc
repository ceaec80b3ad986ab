#include "train/training.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

#include "core/atomic_file.h"
#include "core/error.h"

namespace winnow {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string folder_of(const std::string& output) { return output + ".train"; }

SampleSettings sample_settings(const TrainingSettings& settings, const Architecture& arch) {
  SampleSettings samples;
  for (const Stage& stage : settings.policy.stages) {
    if (stage.layer < 1 || stage.layer >= arch.layers) {
      fail(ErrorCode::kBadArgument,
           "a stage at layer {}: {} has layers 0 to {}, and a stage stands before one of 1 to {}",
           stage.layer, arch.name, arch.layers - 1, arch.layers - 1);
    }
    ScorerInputs inputs;
    inputs.window = settings.window;
    inputs.pools = settings.pools;
    inputs.hidden = settings.hidden_inputs;
    const std::int64_t first = std::max<std::int64_t>(0, stage.layer - settings.attention_layers);
    for (std::int64_t layer = first; settings.attention_inputs && layer < stage.layer; ++layer)
      inputs.attention_layers.push_back(layer);
    samples.inputs.emplace(stage.layer, std::move(inputs));
  }
  samples.target = settings.target;
  samples.tokens_of_window = settings.tokens_of_window;
  samples.policy = settings.policy;
  return samples;
}

json identity_of(const TrainingSettings& s, const Engine& engine, const TrainingWindows& windows) {
  json stages = json::array();
  for (const Stage& stage : s.policy.stages) stages.push_back({stage.layer, stage.keep});
  return {{"version", 2},
          {"model", fmt::format("{:016x}", engine.source().content_hash())},
          {"precision", engine.backend().precision() == Precision::kBF16 ? "bf16" : "f32"},
          {"data", windows.identity()},
          {"stages", stages},
          {"target", target_name(s.target)},
          {"inputs", {s.attention_inputs, s.hidden_inputs, s.attention_layers, s.window, s.pools}},
          {"windows",
           {s.windows.tokens, s.windows.future, s.windows.retrieval, s.training_windows, s.validation_windows,
            s.tokens_of_window}},
          {"scorers",
           {s.scorers.epochs, s.scorers.patience, s.scorers.windows_of_batch, s.scorers.rate, s.scorers.decay,
            s.scorers.loss.rank}},
          {"end_to_end",
           {s.end_to_end.steps, s.end_to_end.loss == EndToEndLoss::kKl ? "kl" : "ce", s.end_to_end.rate,
            s.end_to_end.temperature, s.end_to_end.noise, s.end_to_end.scores_weight, s.end_to_end_tokens}},
          {"start_from", s.start_from},
          {"seed", s.seed}};
}

WindowSettings with_seed(const TrainingSettings& settings) {
  WindowSettings windows = settings.windows;
  windows.seed = settings.seed;
  return windows;
}

}  // namespace

Training::Training(const Engine& engine, TrainingSettings settings, std::vector<EvalText> texts)
    : engine_(engine),
      settings_(std::move(settings)),
      windows_(engine, std::move(texts), with_seed(settings_)),
      samples_(sample_settings(settings_, engine.arch())) {
  if (settings_.policy.stages.empty()) fail(ErrorCode::kBadArgument, "no stage to train a scorer for");
  if (engine.arch().model_dim < 4)
    fail(ErrorCode::kUnsupported, "scorers need a hidden size of 4 or more, {} has {}", engine.arch().name,
         engine.arch().model_dim);
  settings_.scorers.seed = settings_.end_to_end.seed = settings_.seed;
  settings_.scorers.keep = settings_.policy.stages.front().keep;
  identity_ = identity_of(settings_, engine, windows_);
  description_.model_name = engine.arch().name;
  description_.shape_hash = engine.arch().shape_hash();
  description_.model_dim = engine.arch().model_dim;
  description_.heads = engine.arch().heads;
  description_.stages = samples_.inputs;
  if (settings_.end_to_end.steps > 0) windows_.shortened(settings_.end_to_end_tokens);
}

std::string Training::file(const std::string& name) const { return folder_of(settings_.output) + "/" + name; }

void Training::discard(const std::string& output) {
  std::error_code ignored;
  fs::remove_all(folder_of(output), ignored);
}

void Training::prepare_folder() const {
  std::error_code error;
  fs::create_directories(folder_of(settings_.output), error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be made: {}", folder_of(settings_.output), error.message());
  const std::string path = file("settings.json");
  std::ifstream stream(path);
  if (!stream) return write_file_atomically(path, identity_.dump(1) + "\n");
  std::stringstream text;
  text << stream.rdbuf();
  const json before = json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  for (const auto& [key, value] : identity_.items()) {
    if (before.is_object() && before.contains(key) && before[key] == value) continue;
    fail(ErrorCode::kBadArgument, "{}: a run with other settings ({} was {}, is {}); --no-resume starts over",
         folder_of(settings_.output), key,
         before.is_object() && before.contains(key) ? before[key].dump() : "nothing", value.dump());
  }
}

ModelPass& Training::model_pass(bool gradients) {
  if (!pass_ || (gradients && !pass_has_gradients_)) {
    pass_ = std::make_unique<ModelPass>(engine_, gradients);
    pass_has_gradients_ = gradients;
  }
  return *pass_;
}

bool Training::run(const TrainingCallbacks& callbacks) {
  if (fs::exists(settings_.output) && !fs::is_regular_file(settings_.output)) {
    fail(ErrorCode::kIo, "{}: no plain file; the parts of a run are kept in a folder beside it",
         settings_.output);
  }
  prepare_folder();
  check_writable(settings_.output);
  report_ = {
      {"data", windows_.identity()}, {"target", target_name(settings_.target)}, {"seed", settings_.seed}};
  if (settings_.start_from.empty()) {
    if (!collect(callbacks)) return false;
    if (settings_.end == TrainingEnd::kSaliency) return true;
    if (!train_scorers(callbacks)) return false;
  }
  return settings_.end != TrainingEnd::kEndToEnd || settings_.end_to_end.steps == 0 ||
         train_end_to_end(callbacks);
}

bool Training::collect(const TrainingCallbacks& callbacks) {
  const std::int64_t all = settings_.training_windows + settings_.validation_windows;
  for (std::int64_t i = 0; i < all; ++i) {
    const bool validation = i >= settings_.training_windows;
    const std::int64_t index = validation ? i - settings_.training_windows : i;
    const std::string path =
        file(fmt::format("{}-{:06}.safetensors", validation ? "validate" : "train", index));
    if (fs::exists(path)) continue;
    if (callbacks.cancelled && callbacks.cancelled()) return false;
    if (callbacks.progress)
      callbacks.progress(static_cast<double>(i) / static_cast<double>(all),
                         fmt::format("window {} of {}", i + 1, all));
    SampleSettings samples = samples_;
    if (validation) samples.tokens_of_window = 0;
    const TrainingWindow window = validation ? windows_.validation(index) : windows_.training(index);
    save_samples(path,
                 collect_samples(model_pass(needs_gradients(settings_.target)), window, samples,
                                 settings_.seed + static_cast<std::uint64_t>(index)),
                 samples_);
  }
  return true;
}

ScorerTraining Training::stage_training(std::int64_t stage) const {
  const std::int64_t columns = samples_.inputs.at(stage).columns(description_.heads, description_.model_dim);
  std::vector<StageSamples> training, validation;
  for (std::int64_t i = 0; i < settings_.training_windows; ++i) {
    training.push_back(load_samples(file(fmt::format("train-{:06}.safetensors", i)), stage, columns));
  }
  for (std::int64_t i = 0; i < settings_.validation_windows; ++i) {
    validation.push_back(load_samples(file(fmt::format("validate-{:06}.safetensors", i)), stage, columns));
  }
  return {engine_.backend(),
          settings_.scorers,
          stage,
          columns,
          std::max<std::int64_t>(1, description_.model_dim / 4),
          std::move(training),
          std::move(validation)};
}

bool Training::train_scorers(const TrainingCallbacks& callbacks) {
  std::map<std::int64_t, Mlp> scorers;
  const std::vector<std::int64_t> stages = samples_.stages();
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const std::int64_t stage = stages[i];
    const std::int64_t columns =
        samples_.inputs.at(stage).columns(description_.heads, description_.model_dim);
    const std::string path = file(fmt::format("scorer-{}.safetensors", stage));
    std::optional<ScorerState> state;
    if (fs::exists(path))
      state = load_scorer_state(path, columns, std::max<std::int64_t>(1, description_.model_dim / 4));
    if (!state || !state->finished) {
      ScorerTraining training = stage_training(stage);
      if (!state) state = training.start();
      while (!state->finished) {
        if (callbacks.cancelled && callbacks.cancelled()) return false;
        if (callbacks.progress) {
          callbacks.progress(static_cast<double>(i) / static_cast<double>(stages.size()),
                             fmt::format("stage {} epoch {}", stage, state->epoch + 1));
        }
        training.run_epoch(*state);
        save_scorer_state(path, *state);
        if (callbacks.log) callbacks.log(state->curve.back());
      }
    }
    report_["scorers"][std::to_string(stage)] = {{"epoch", state->best_epoch},
                                                 {"validation_lost", state->best_lost}};
    scorers.emplace(stage, folded_scorer(*state));
  }
  write_output(scorers);
  return true;
}

bool Training::train_end_to_end(const TrainingCallbacks& callbacks) {
  const TrainingWindows windows = windows_.shortened(settings_.end_to_end_tokens);
  std::vector<TrainingWindow> validation;
  for (std::int64_t i = 0; i < settings_.validation_windows; ++i) validation.push_back(windows.validation(i));
  const std::string start = settings_.start_from.empty() ? settings_.output : settings_.start_from,
                    path = file("end-to-end.safetensors");
  EndToEndState state;
  if (fs::exists(path)) {
    std::map<std::int64_t, Mlp> blank;
    for (const auto& [stage, inputs] : description_.stages) {
      blank[stage] = make_mlp(inputs.columns(description_.heads, description_.model_dim),
                              std::max<std::int64_t>(1, description_.model_dim / 4), 0);
    }
    state = load_end_to_end(path, blank);
  } else {
    state.scorers = state.best = load_scorers(start, description_);
  }
  EndToEnd training(model_pass(true), settings_.end_to_end, samples_);
  const auto measure = [&] {
    const double loss = training.validate(state.scorers, validation);
    EndToEnd::check_loss(loss, state.step);
    state.curve.push_back(fmt::format("end to end step {}: validation {} {:.5f}", state.step,
                                      settings_.end_to_end.loss == EndToEndLoss::kKl ? "KL" : "CE", loss));
    if (callbacks.log) callbacks.log(state.curve.back());
    if (state.start_loss < 0) state.start_loss = loss;
    if (state.best_loss < 0 || loss < state.best_loss) {
      state.best_loss = loss;
      state.best = state.scorers;
    }
    save_end_to_end(path, state);
  };
  if (state.step == 0) measure();
  double sum = 0;
  while (state.step < settings_.end_to_end.steps) {
    if (callbacks.cancelled && callbacks.cancelled()) return false;
    if (callbacks.progress) {
      callbacks.progress(static_cast<double>(state.step) / static_cast<double>(settings_.end_to_end.steps),
                         fmt::format("end to end, step {}", state.step + 1));
    }
    sum += training.step(state, windows.training(state.step));
    if (state.step % settings_.end_to_end_interval != 0 && state.step != settings_.end_to_end.steps) continue;
    if (callbacks.log)
      callbacks.log(fmt::format("end to end step {}: training loss {:.5f}", state.step,
                                sum / static_cast<double>(settings_.end_to_end_interval)));
    sum = 0;
    measure();
  }
  report_["end_to_end"] = {
      {"steps", state.step}, {"validation_start", state.start_loss}, {"validation", state.best_loss}};
  write_output(state.best);
  return true;
}

void Training::write_output(const std::map<std::int64_t, Mlp>& scorers) {
  description_.training = report_;
  description_.training["winnow"] = WINNOW_VERSION;
  description_.training["model"] = identity_["model"];
  description_.training["windows"] = identity_["windows"];
  description_.training["stages"] = identity_["stages"];
  save_scorers(settings_.output, scorers, description_);
}

}  // namespace winnow
