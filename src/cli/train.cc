// winnow train: scorers from texts. The work is in train/training.h.
#include <fmt/format.h>

#include <cstdio>

#include "cli/command.h"
#include "cli/common.h"
#include "cli/interrupt.h"
#include "cli/provenance.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "train/training.h"

namespace winnow::cli {
namespace {

struct TrainOptions {
  ModelOptions model;
  TrainingSettings settings;
  std::vector<std::string> data;
  std::string policy = "keep08", target = "attention", inputs = "attention", until = "end-to-end",
              loss = "kl";
  bool resume = true, as_json = false;
};

// What the command line says in words.
void read_names(TrainOptions& options, const Engine& engine) {
  TrainingSettings& settings = options.settings;
  settings.policy = parse_policy(options.policy, engine.facts()).tokens;
  for (const Stage& stage : settings.policy.stages) {
    if (stage.top_p)
      fail(ErrorCode::kBadArgument,
           "--policy {}: the stage at layer {} has top_p; scorers are trained for keep ratios",
           options.policy, stage.layer);
  }
  settings.target = *parse_target_kind(options.target);
  settings.attention_inputs = options.inputs != "hidden";
  settings.hidden_inputs = options.inputs != "attention";
  settings.end = options.until == "saliency"  ? TrainingEnd::kSaliency
                 : options.until == "scorers" ? TrainingEnd::kScorers
                                              : TrainingEnd::kEndToEnd;
  settings.end_to_end.loss = options.loss == "kl" ? EndToEndLoss::kKl : EndToEndLoss::kCrossEntropy;
  settings.seed = options.model.seed;
}

std::vector<EvalText> read_data(const std::vector<std::string>& files) {
  std::vector<EvalText> texts;
  for (const std::string& file : files)
    texts.push_back(parse_training_text(file_name(file), read_text(file)));
  return texts;
}

int train(TrainOptions options) {
  const std::string output = options.settings.output;
  check_writable(output);
  if (options.until != "end-to-end" && options.settings.end_to_end.steps > 0)
    throw UsageError("--end-to-end and --until: the end-to-end training would not be reached");
  if (!options.settings.start_from.empty()) {
    if (same_file(options.settings.start_from, output)) throw UsageError("--from and -o are the same file");
  }
  std::vector<EvalText> texts = read_data(options.data);
  const auto engine = open_engine(options.model);
  read_names(options, *engine);
  if (!options.resume) Training::discard(output);
  Training training(*engine, options.settings, std::move(texts));
  bool finished = false;
  {
    Progress progress("training", options.model.progress_style());
    const Interrupt interrupt;
    TrainingCallbacks callbacks;
    callbacks.log = [&](const std::string& line) {
      progress.finish();
      fmt::print(stderr, "{}\n", line);
    };
    callbacks.progress = [&](double share, const std::string& note) { progress.update(share, note); };
    callbacks.cancelled = [&] { return interrupt.requested(); };
    finished = training.run(callbacks);
  }
  if (!finished) {
    fmt::print(stderr, "interrupted: what is done is kept in {}.train; run the same command again to go on\n",
               output);
    return 1;
  }
  if (options.settings.end == TrainingEnd::kSaliency) {
    fmt::print("samples are in {}.train\n", output);
    return 0;
  }
  nlohmann::json report = provenance(kTrainSchema, *engine, options.model);
  report["command"] = "train";
  report["training"] = training.report();
  fmt::print("{}\n", options.as_json ? dump_json(report, 2) : fmt::format("wrote {}", output));
  return 0;
}

constexpr const char* kFooter =
    R"(What a run does, each part kept in OUT.train and not done again after a stop:
  saliency     for each window the target of every token (--target) and what scorers may look at (--inputs)
  scorers      for each stage an MLP: squared distance to the targets and order of pairs, with held-out validation
  end-to-end   with --end-to-end STEPS: the scorers prune while the frozen model reads, and learn from its KL to dense
Data: plain text, or JSON lines (.jsonl) with "text", or Dolly's "instruction", "context" and "response". A part of the
windows (--retrieval) are questions about something hidden in the text. More: docs/training.md

Examples:
  winnow train -m smollm2-135m --data novel.txt --data notes.jsonl -o s.safetensors
  winnow train -m smollm2-135m --data novel.txt --target gradient --inputs hidden -o sdtp.safetensors
  winnow train -m smollm2-135m --data novel.txt --from s.safetensors --end-to-end 200 -o s2.safetensors
  winnow eval  -m smollm2-135m --policies dense,keep08:learned=s.safetensors,keep08:recency,keep08:attention,keep08:random)";

void add_training_options(CLI::App& sub, TrainOptions& options) {
  TrainingSettings& s = options.settings;
  const auto count = CLI::Range(std::int64_t{1}, std::int64_t{1} << 24);
  sub.add_option("--policy", options.policy, "Whose stages and keep ratios the scorers are for")
      ->capture_default_str();
  sub.add_option("--target", options.target, "What a token's target is")
      ->check(CLI::IsMember({"attention", "attention-mean", "gradient", "kvzap"}))
      ->capture_default_str();
  sub.add_option("--inputs", options.inputs,
                 "What scorers look at: attention of the last queries, the hidden state, or both")
      ->check(CLI::IsMember({"attention", "hidden", "both"}))
      ->capture_default_str();
  sub.add_option("--attention-layers", s.attention_layers,
                 "Layers before a stage whose attention its scorer sees")
      ->check(count)
      ->capture_default_str();
  sub.add_option("--windows", s.training_windows, "Windows to train on")->check(count)->capture_default_str();
  sub.add_option("--validation-windows", s.validation_windows, "Windows to validate on")
      ->check(count)
      ->capture_default_str();
  sub.add_option("--window-tokens", s.windows.tokens,
                 "Tokens of the longest window; the shortest has half of them")
      ->check(count)
      ->capture_default_str();
  sub.add_option("--future", s.windows.future, "Tokens after the pruned part of a window of text")
      ->check(count)
      ->capture_default_str();
  sub.add_option("--retrieval", s.windows.retrieval,
                 "Share of windows with a question about something hidden in the text")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  sub.add_option("--tokens-of-window", s.tokens_of_window, "Tokens of a window that become samples")
      ->check(count)
      ->capture_default_str();
  sub.add_option("--epochs", s.scorers.epochs, "Epochs at most")->check(count)->capture_default_str();
  sub.add_option("--patience", s.scorers.patience, "Epochs without a better validation before a stage stops")
      ->check(count)
      ->capture_default_str();
  sub.add_option("--rate", s.scorers.rate, "Adam's rate for the scorers")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub.add_option("--rank", s.scorers.loss.rank, "Weight of the pairwise ranking loss beside the squares")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void add_end_to_end_options(CLI::App& sub, TrainOptions& options) {
  TrainingSettings& s = options.settings;
  const auto count = CLI::Range(std::int64_t{1}, std::int64_t{1} << 24);
  CLI::Option* steps = sub.add_option("--end-to-end", s.end_to_end.steps,
                                      "Steps of end-to-end training, a window each; 0: none")
                           ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 24))
                           ->capture_default_str();
  sub.add_option("--from", s.start_from,
                 "Scorers the end-to-end training starts from; nothing else is trained")
      ->needs(steps)
      ->type_name("FILE");
  sub.add_option("--end-to-end-tokens", s.end_to_end_tokens, "Tokens of its longest window")
      ->check(count)
      ->needs(steps)
      ->capture_default_str();
  sub.add_option("--end-to-end-interval", s.end_to_end_interval, "Steps between validations and checkpoints")
      ->check(count)
      ->needs(steps)
      ->capture_default_str();
  sub.add_option("--end-to-end-rate", s.end_to_end.rate, "Adam's rate")
      ->check(CLI::PositiveNumber)
      ->needs(steps)
      ->capture_default_str();
  sub.add_option("--loss", options.loss, "KL to the dense model, or cross-entropy of the text")
      ->check(CLI::IsMember({"kl", "ce"}))
      ->needs(steps)
      ->capture_default_str();
  sub.add_option("--temperature", s.end_to_end.temperature,
                 "Of the relaxed mask, in units of the scores' spread")
      ->check(CLI::PositiveNumber)
      ->needs(steps)
      ->capture_default_str();
  sub.add_option("--noise", s.end_to_end.noise, "Of the scores at the first step, in the same units")
      ->check(CLI::NonNegativeNumber)
      ->needs(steps)
      ->capture_default_str();
  sub.add_option("--scores-weight", s.end_to_end.scores_weight, "Weight of the squares and ranking terms")
      ->check(CLI::NonNegativeNumber)
      ->needs(steps)
      ->capture_default_str();
  sub.add_option("--until", options.until, "Where to stop")
      ->check(CLI::IsMember({"saliency", "scorers", "end-to-end"}))
      ->capture_default_str();
}

}  // namespace

void add_train(CLI::App& app, Command& command) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* sub = app.add_subcommand("train", "Train scorers that say which tokens matter");
  add_model_options(*sub, options->model);
  sub->add_option("--data", options->data, "Texts to train on, .txt or .jsonl, or - for stdin")
      ->required()
      ->type_name("FILE");
  add_training_options(*sub, *options);
  add_end_to_end_options(*sub, *options);
  sub->add_flag("--resume,!--no-resume", options->resume,
                "Go on where a run with the same -o stopped (the default)");
  sub->add_flag("--json", options->as_json, "What was trained as JSON on stdout");
  sub->add_option("-o,--output", options->settings.output, "The file of scorers to write")
      ->required()
      ->type_name("FILE");
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return train(*options); }; });
}

}  // namespace winnow::cli
