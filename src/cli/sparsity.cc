// winnow sparsity: how sparse a model's attention is on a text, and what leaving blocks out of it costs.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <optional>

#include "analysis/head_export.h"
#include "cli/command.h"
#include "cli/common.h"
#include "cli/provenance.h"
#include "cli/sparsity_report.h"
#include "cli/text_prompts.h"
#include "core/atomic_file.h"
#include "core/error.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

constexpr const char* kDefaultBlocks[] = {"1x4", "1x16", "1x32", "16x16", "32x32", "64x16", "64x64"};
constexpr const char* kDefaultEndToEnd[] = {"16x16", "64x64"};
constexpr float kDefaultThresholds[] = {0.0005f, 0.001f, 0.002f, 0.005f, 0.01f, 0.05f, 0.1f, 0.2f, 0.5f};
constexpr float kEndToEndThresholds[] = {0.0005f, 0.001f, 0.002f, 0.005f, 0.01f, 0.1f};
constexpr const char* kDefaultMapAt = "64x64:0.005";
constexpr std::int64_t kDefaultLength = 1024;
constexpr std::int64_t kSamples = 8;  // positions whose likeliest tokens are shown

struct SparsityOptions {
  ModelOptions model;
  std::string file, output;
  std::vector<std::string> texts = {"mix"};
  std::int64_t length = 0;  // 0: kDefaultLength, or what the text and the context have
  std::vector<std::string> blocks, end_to_end;
  std::vector<float> thresholds;
  std::vector<std::int64_t> layers, heads;
  std::string dump_folder, map_folder, map_at;
  bool as_json = false;
};

// What to measure, read from the command line before any work.
struct Plan {
  std::vector<BlockShape> shapes, end_to_end;
  std::vector<float> thresholds, end_to_end_thresholds;  // ascending
  BlockShape map_shape;
  float map_threshold = 0;
};

void add_unique(std::vector<BlockShape>& shapes, BlockShape shape) {
  if (std::find(shapes.begin(), shapes.end(), shape) == shapes.end()) shapes.push_back(shape);
}

template <class Texts>
std::vector<BlockShape> parse_shapes(const Texts& texts) {
  std::vector<BlockShape> shapes;
  for (const auto& text : texts) add_unique(shapes, parse_block_shape(text));
  return shapes;
}

std::vector<float> sorted(std::vector<float> thresholds) {
  std::sort(thresholds.begin(), thresholds.end());
  thresholds.erase(std::unique(thresholds.begin(), thresholds.end()), thresholds.end());
  return thresholds;
}

float checked_threshold(float threshold, const char* option) {
  if (!(threshold > 0 && threshold <= 1)) {
    throw UsageError(fmt::format("{} {:g}: a threshold is a weight above 0, at most 1", option, threshold));
  }
  return threshold;
}

// "QxK:threshold".
void parse_map_at(const std::string& text, Plan& plan) {
  const std::size_t colon = text.find(':');
  char* end = nullptr;
  const std::string number = colon == std::string::npos ? "" : text.substr(colon + 1);
  plan.map_threshold = std::strtof(number.c_str(), &end);
  if (number.empty() || *end != '\0') {
    throw UsageError(fmt::format("--map-at {}: must be a block and a threshold, as 64x64:0.005", text));
  }
  checked_threshold(plan.map_threshold, "--map-at");
  plan.map_shape = parse_block_shape(text.substr(0, colon));
}

Plan make_plan(const SparsityOptions& options) {
  if (!options.model.random_weights.empty()) {
    fail(ErrorCode::kBadArgument,
         "--random-weights {}: random weights say nothing about sparsity, and cannot read text",
         options.model.random_weights);
  }
  if (!(options.layers.empty() && options.heads.empty()) && options.dump_folder.empty() &&
      options.map_folder.empty()) {
    throw UsageError("--layers and --heads choose what --dump and --maps write: give one of these as well");
  }
  if (!options.map_at.empty() && options.map_folder.empty()) {
    throw UsageError("--map-at says what the pictures of --maps show: give that as well");
  }
  Plan plan;
  plan.shapes = options.blocks.empty() ? parse_shapes(kDefaultBlocks) : parse_shapes(options.blocks);
  for (const float threshold : options.thresholds) checked_threshold(threshold, "--thresholds");
  constexpr std::size_t kMostThresholds = 100;
  if (options.thresholds.size() > kMostThresholds) {
    fail(ErrorCode::kBadArgument, "--thresholds: {} values, at most {} are swept in one run",
         options.thresholds.size(), kMostThresholds);
  }
  const bool own_thresholds = !options.thresholds.empty();
  plan.thresholds = own_thresholds
                        ? sorted(options.thresholds)
                        : std::vector<float>(std::begin(kDefaultThresholds), std::end(kDefaultThresholds));
  plan.end_to_end_thresholds =
      own_thresholds ? plan.thresholds
                     : std::vector<float>(std::begin(kEndToEndThresholds), std::end(kEndToEndThresholds));
  if (options.end_to_end == std::vector<std::string>{"all"}) {
    plan.end_to_end = plan.shapes;
    plan.end_to_end_thresholds = plan.thresholds;
  } else if (options.end_to_end.empty()) {
    plan.end_to_end = options.blocks.empty() ? parse_shapes(kDefaultEndToEnd) : plan.shapes;
  } else if (options.end_to_end != std::vector<std::string>{"none"}) {
    plan.end_to_end = parse_shapes(options.end_to_end);
  }
  for (const BlockShape& shape : plan.end_to_end) add_unique(plan.shapes, shape);
  parse_map_at(options.map_at.empty() ? kDefaultMapAt : options.map_at, plan);
  return plan;
}

// The list as given, or 0..count-1 for none.
std::vector<std::int64_t> chosen_indices(std::vector<std::int64_t> list, std::int64_t count,
                                         const char* option) {
  for (const std::int64_t index : list) {
    if (index < 0 || index >= count) {
      fail(ErrorCode::kBadArgument, "{} {}: this model's are 0 to {}", option, index, count - 1);
    }
  }
  if (list.empty()) {
    list.resize(static_cast<std::size_t>(count));
    std::iota(list.begin(), list.end(), 0);
  }
  return list;
}

std::vector<SourceText> read_file_text(const std::string& path) {
  SourceText text{file_name(path), read_text(path)};
  if (text.text.empty()) fail(ErrorCode::kBadArgument, "{}: is empty", text.name);
  return {std::move(text)};
}

std::string last_words(const Tokenizer& tokenizer, std::span<const TokenId> tokens) {
  constexpr std::size_t kShown = 8;
  const auto shown = tokens.last(std::min(kShown, tokens.size()));
  return tokenizer.decode({shown.begin(), shown.end()}, /*skip_control=*/false);
}

// Evenly spread over the prompt's second half.
std::vector<TokenSample> make_samples(const Tokenizer& tokenizer, const TextPrompt& prompt,
                                      const DenseRun& dense, const Drift& drift) {
  std::vector<TokenSample> samples;
  const auto tokens = static_cast<std::int64_t>(prompt.tokens.size());
  const std::int64_t first = tokens / 2, places = tokens - 1 - first;  // the last token has no next one
  const std::int64_t count = std::min(kSamples, places);
  const auto text = [&](TokenId id) { return tokenizer.decode({id}, /*skip_control=*/false); };
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t at = first + i * places / count;
    samples.push_back(
        {.prompt = prompt.name,
         .position = at,
         .before = last_words(tokenizer, std::span(prompt.tokens).first(static_cast<std::size_t>(at + 1))),
         .next = text(prompt.tokens[at + 1]),
         .dense = text(dense.likeliest()[at]),
         .sparse = text(drift.likeliest[at])});
  }
  return samples;
}

class Sparsity {
 public:
  Sparsity(const SparsityOptions& options, const Plan& plan)
      : options_(options),
        plan_(plan),
        texts_(options.file.empty() ? read_texts(options.texts) : read_file_text(options.file)),
        engine_(open_engine(options.model)) {
    const Architecture& arch = engine_->arch();
    export_.layers = chosen_indices(options.layers, arch.layers, "--layers");
    export_.heads = chosen_indices(options.heads, arch.heads, "--heads");
    if (options.length > arch.context) {
      fail(ErrorCode::kBadArgument, "--length {}: the model's context is {} tokens", options.length,
           arch.context);
    }
    prompts_ =
        make_prompts(engine_->tokenizer(), texts_, options.length, std::min(arch.context, kDefaultLength));
    prepare_head_export();
  }

  void run() {
    analyse();
    if (!plan_.end_to_end.empty()) run_end_to_end();
  }

  json report() const {
    json report = provenance(kSparsitySchema, *engine_, options_.model);
    report["command"] = "sparsity";
    report["length"] = result_.tokens;
    report["text"] = json::array();
    for (const TextPrompt& prompt : prompts_) report["text"].push_back(prompt.description);
    report.update(sparsity_json(result_));
    report["files"] = files_;
    return report;
  }

  void print_tables() const {
    std::string names;
    for (const TextPrompt& prompt : prompts_) names += (names.empty() ? "" : ", ") + prompt.name;
    fmt::print("{}, {} tokens of {}\n\n{}", engine_->arch().name, result_.tokens, names,
               sparsity_tables(result_));
    for (const std::string& file : files_) fmt::print(stderr, "wrote {}\n", file);
  }

 private:
  std::int64_t tokens() const { return static_cast<std::int64_t>(prompts_[0].tokens.size()); }
  bool exports() const { return !options_.dump_folder.empty() || !options_.map_folder.empty(); }

  void prepare_head_export() {
    export_.tokens = tokens();
    export_.dump_folder = options_.dump_folder;
    export_.map_folder = options_.map_folder;
    export_.map_shape = plan_.map_shape;
    export_.map_threshold = plan_.map_threshold;
    prepare_export(export_, available_memory_bytes());
  }

  void analyse() {
    const Architecture& arch = engine_->arch();
    result_.shapes = plan_.shapes;
    result_.thresholds = plan_.thresholds;
    result_.thresholds.push_back(kPrunableMaximum);
    result_.thresholds = sorted(result_.thresholds);
    result_.layers = arch.layers;
    result_.heads = arch.heads;
    result_.tokens = tokens();
    analysis_.emplace(AnalysisOptions{.shapes = result_.shapes,
                                      .thresholds = result_.thresholds,
                                      .layers = arch.layers,
                                      .heads = arch.heads,
                                      .tokens = tokens()},
                      engine_->backend());
    result_.analysis = &*analysis_;
    Progress progress("analysing", options_.model.progress_style());
    const auto prompts = static_cast<double>(prompts_.size());
    for (std::size_t i = 0; i < prompts_.size(); ++i) {
      analyse_prompt(prompts_[i], i == 0, [&](double share) {
        progress.update((static_cast<double>(i) + share) / prompts, prompts_[i].name);
      });
    }
    for (SweepPoint& point : analysis_->totals().points()) {
      const auto& asked = plan_.thresholds;
      if (std::find(asked.begin(), asked.end(), point.threshold) != asked.end())
        result_.points.push_back(std::move(point));
    }
  }

  // Files show the first prompt.
  void analyse_prompt(const TextPrompt& prompt, bool first, const std::function<void(double)>& progress) {
    HeadExport head_export(export_);
    analysis_->set_tap({});
    if (first && exports()) {
      analysis_->set_tap([&](std::int64_t layer, std::int64_t head, const WeightChunk& chunk) {
        head_export.add(layer, head, chunk);
      });
    }
    PrefillOptions options;
    options.reserve_tokens = 0;
    options.progress = progress;
    options.observe_attention = [&](const AttentionView& view) { analysis_->observe(view); };
    Session session(*engine_);
    session.prefill(prompt.tokens, Policy{}, options);
    if (first) files_ = head_export.files();
  }

  bool runs_end_to_end(const SweepPoint& point) const {
    const auto& shapes = plan_.end_to_end;
    const auto& thresholds = plan_.end_to_end_thresholds;
    return std::find(shapes.begin(), shapes.end(), point.shape) != shapes.end() &&
           std::find(thresholds.begin(), thresholds.end(), point.threshold) != thresholds.end();
  }

  void run_end_to_end() {
    std::vector<std::size_t> runs;
    for (std::size_t i = 0; i < result_.points.size(); ++i) {
      if (runs_end_to_end(result_.points[i])) runs.push_back(i);
    }
    Progress progress("end to end", options_.model.progress_style());
    const double total = static_cast<double>(prompts_.size()) * static_cast<double>(runs.size() + 1);
    double done = 0;
    for (const TextPrompt& prompt : prompts_) {
      const auto step = [&](const std::string& note) {
        return
            [&progress, total, done, note](double share) { progress.update((done + share) / total, note); };
      };
      const DenseRun dense(*engine_, prompt.tokens, step(prompt.name + ", dense"));
      ++done;
      for (const std::size_t run : runs) {
        const SweepPoint& point = result_.points[run];
        const Policy policy = exclusion_policy(point.shape.q, point.shape.k, point.threshold);
        const Drift drift = measure_drift(*engine_, dense, policy, step(prompt.name + ", " + policy.name));
        ++done;
        EndToEnd& sum = result_.drifts[run];
        sum.drift.merge(drift);
        const auto samples = make_samples(engine_->tokenizer(), prompt, dense, drift);
        sum.samples.insert(sum.samples.end(), samples.begin(), samples.end());
      }
    }
  }

  const SparsityOptions& options_;
  const Plan& plan_;
  std::vector<SourceText> texts_;
  std::unique_ptr<Engine> engine_;
  std::vector<TextPrompt> prompts_;
  HeadExportOptions export_;
  std::optional<AttentionAnalysis> analysis_;
  SparsityResult result_;
  std::vector<std::string> files_;
};

int sparsity(const SparsityOptions& options) {
  const Plan plan = make_plan(options);
  if (!options.output.empty()) check_writable(options.output);
  Sparsity sparsity(options, plan);
  sparsity.run();
  if (options.as_json) {
    fmt::print("{}\n", dump_json(sparsity.report(), 2));
  } else {
    sparsity.print_tables();
  }
  std::fflush(stdout);
  if (!options.output.empty()) write_file_atomically(options.output, dump_json(sparsity.report()) + "\n");
  return 0;
}

constexpr const char* kFooter =
    R"(A block of Q queries x K keys is excluded when its largest attention weight is under the threshold. Every share is
given twice: of all blocks of the square matrix, of which nearly half are the causal triangle, and of the causal ones.
Row KL is what exclusion does to attention rows; end to end, the blocks are really left out in every layer, and the
next-token distributions compared with the dense ones. docs/sparsity.md defines every number.

Examples:
  winnow sparsity -m smollm2-135m                                      # 1,024 tokens of each built-in text
  winnow sparsity -m smollm2-135m -f report.txt --length 4096 --block 64 --thresholds 0.005 -o sparsity.json
  winnow sparsity -m smollm2-135m --layers 0,15 --heads 3 --maps maps --end-to-end none)";

void add_inputs(CLI::App& app, SparsityOptions& options) {
  add_model_options(app, options.model);
  app.remove_option(app.get_option("--seed"));  // nothing is random here
  app.add_option("-f,--file", options.file, "A text file")->type_name("FILE");
  app.add_option("--text", options.texts,
                 "Files, - for stdin, names of built-in texts, or mix: all of these; a prompt each")
      ->delimiter(',')
      ->excludes("--file")
      ->capture_default_str();
  app.add_option("--length", options.length, "Tokens of each prompt; default: up to 1024")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30));
  app.add_option("--block", options.blocks,
                 "Blocks, QxK or N for NxN; default: " + fmt::format("{}", fmt::join(kDefaultBlocks, ",")))
      ->delimiter(',');
  app.add_option("--thresholds", options.thresholds,
                 "Largest weights under which blocks are excluded; default: " +
                     fmt::format("{}", fmt::join(kDefaultThresholds, ",")))
      ->delimiter(',');
  app.add_option("--end-to-end", options.end_to_end,
                 "Blocks really left out: all, none or a list; default: those of --block, or 16x16,64x64")
      ->delimiter(',');
}

void add_outputs(CLI::App& app, SparsityOptions& options) {
  app.add_option("--dump", options.dump_folder,
                 "Write the first prompt's attention weights here, a .npy file a head")
      ->type_name("DIR");
  app.add_option("--maps", options.map_folder, "Write pictures of them here, a .png file a head")
      ->type_name("DIR");
  app.add_option("--map-at", options.map_at, "Excluded blocks the pictures show, QxK:threshold")
      ->default_str(kDefaultMapAt);
  app.add_option("--layers", options.layers, "Layers for --dump and --maps; default: all")->delimiter(',');
  app.add_option("--heads", options.heads, "Heads for --dump and --maps; default: all")->delimiter(',');
  app.add_flag("--json", options.as_json, "As JSON");
  app.add_option("-o,--output", options.output, "Write the result as JSON")->type_name("FILE");
}

}  // namespace

void add_sparsity(CLI::App& app, Command& command) {
  auto options = std::make_shared<SparsityOptions>();
  CLI::App* sub =
      app.add_subcommand("sparsity", "How sparse attention is, and what leaving blocks out costs");
  add_inputs(*sub, *options);
  add_outputs(*sub, *options);
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return sparsity(*options); }; });
}

}  // namespace winnow::cli
