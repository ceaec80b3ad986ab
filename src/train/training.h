// Training: `winnow train` from texts to a file of scorers. Collects samples (the saliency of tokens and what
// scorers may look at), trains a scorer for each stage on them, and trains all of them end to end where that
// is asked for.
//
// Everything lies in a folder beside the output, OUT.train/: settings.json, a file of samples for each
// window, a checkpoint for each stage and one of the end-to-end training, all written whole or not at all.
// The same settings continue there after a stop of any kind and give the same bits as without it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "train/checkpoints.h"
#include "train/training_data.h"

namespace winnow {

enum class TrainingEnd : std::uint8_t { kSaliency, kScorers, kEndToEnd };

struct TrainingSettings {
  TokenPolicy policy;  // stages, keep ratios, protected tokens
  TargetKind target = TargetKind::kAttentionMax;
  bool attention_inputs = true, hidden_inputs = false;
  std::int64_t attention_layers = 8;  // before each stage
  std::int64_t window = 64;           // queries that ask
  std::vector<std::int64_t> pools{1, 7, 31};
  WindowSettings windows;
  std::int64_t training_windows = 300, validation_windows = 16, tokens_of_window = 320;
  ScorerTrainingSettings scorers;
  EndToEndSettings end_to_end;  // steps 0: none
  std::int64_t end_to_end_tokens = 768, end_to_end_interval = 25;
  TrainingEnd end = TrainingEnd::kEndToEnd;
  std::string start_from;  // scorers that the end-to-end training starts from, in place of new ones; or empty
  std::uint64_t seed = 0;
  std::string output;
};

struct TrainingCallbacks {
  std::function<void(const std::string&)> log;               // a line of the loss curves
  std::function<void(double, const std::string&)> progress;  // share of the current part, and what it is
  std::function<bool()> cancelled;
};

class Training {
 public:
  // Error(kBadArgument, kUnsupported) for settings that make no sense for the model, or data without a usable
  // window.
  Training(const Engine& engine, TrainingSettings settings, std::vector<EvalText> texts);

  // Goes on from what is in the folder. False when cancelled: everything done so far is kept.
  // Error(kBadArgument) when the folder holds a run of other settings, naming the first that differs;
  // Error(kIo) when the disk is full.
  bool run(const TrainingCallbacks& callbacks);
  // Forgets what is in the folder.
  static void discard(const std::string& output);

  // After run(): what was trained, with its losses.
  const nlohmann::json& report() const { return report_; }

 private:
  std::string file(const std::string& name) const;
  void prepare_folder() const;
  bool collect(const TrainingCallbacks& callbacks);
  bool train_scorers(const TrainingCallbacks& callbacks);
  bool train_end_to_end(const TrainingCallbacks& callbacks);
  ScorerTraining stage_training(std::int64_t stage) const;
  void write_output(const std::map<std::int64_t, Mlp>& scorers);
  ModelPass& model_pass(bool gradients);

  const Engine& engine_;
  TrainingSettings settings_;
  TrainingWindows windows_;
  SampleSettings samples_;
  ScorerDescription description_;
  nlohmann::json identity_, report_;
  std::unique_ptr<ModelPass> pass_;
  bool pass_has_gradients_ = false;
};

}  // namespace winnow
