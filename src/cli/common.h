// What the subcommands share: options that name a model and how to run it, reading text, small numbers for
// people.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/progress.h"
#include "formats/weight_source.h"
#include "model/architecture.h"
#include "runtime/engine.h"
#include "runtime/sampler.h"

namespace winnow::cli {

struct ModelOptions {
  std::string model, random_weights;
  std::string device = "cpu", precision = "bf16", kv = "same";
  std::vector<std::string> devices;  // of several ranks (ranks.h)
  std::string split;
  bool takes_ranks = false;
  bool alone = false;  // this process runs the model by itself, whatever started it
  int threads = 0;
  std::uint64_t seed = 0;  // of random weights, and of sampling
  bool plain_progress = false;

  ProgressStyle progress_style() const { return choose_progress_style(plain_progress); }
};

// -m, --random-weights and --seed: which model. With `positional_model` the model is also taken as an
// argument without a flag.
void add_model_choice(CLI::App& app, ModelOptions& options, bool positional_model = false);

// These, and how to run it: --device, --threads, --precision and --progress.
void add_model_options(CLI::App& app, ModelOptions& options, bool positional_model = false);

// --kv, for what reads a cache after the prefill that filled it.
void add_kv_option(CLI::App& app, ModelOptions& options);

// --temperature, --top-k, --top-p. The seed is ModelOptions'.
void add_sampling_options(CLI::App& app, SamplerOptions& options);

// The file or folder MODEL stands for: itself, or where scripts/get_model.sh put the demo model of that name.
// Error(kIo) when it is not there.
std::string resolve_model(const std::string& model);

// Error(kUnsupported) for precisions and devices this build does not have. UsageError for anything unknown,
// and unless exactly one of -m and --random-weights is given.
EngineOptions engine_options(const ModelOptions& options);

// The engine, loaded behind a progress bar.
std::unique_ptr<Engine> open_engine(const ModelOptions& options);

// Weights and architecture without loading: enough to look at a model or to check a policy.
std::unique_ptr<WeightSource> open_source(const ModelOptions& options);

// A whole file, or stdin for "-". Error(kIo) naming the path.
std::string read_text(const std::string& path);

// Both paths lead to one regular file; "-" as `input` is stdin.
bool same_file(const std::string& input, const std::string& output);

// JSON for output: text that is not UTF-8 is repaired, never an exception at the end of a long run.
std::string dump_json(const nlohmann::json& json, int indent = -1);

double megabytes(std::int64_t bytes);  // 10^6

}  // namespace winnow::cli
