#include "cli/common.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "cli/command.h"
#include "cli/ranks.h"
#include "core/error.h"
#include "model/random_weights.h"
#include "runtime/kv_choice.h"

namespace winnow::cli {
namespace {

struct DemoModel {
  std::string_view name, file;
};
constexpr std::array kDemoModels{// as scripts/get_model.sh
                                 DemoModel{"smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf"},
                                 DemoModel{"gemma3-270m", "gemma-3-270m-q4_k_m.gguf"}};

// Where scripts/get_model.sh keeps models.
std::filesystem::path models_folder() {
  const auto variable = [](const char* name) -> std::string_view {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (!variable("WINNOW_MODELS").empty()) return variable("WINNOW_MODELS");
  if (!variable("XDG_CACHE_HOME").empty())
    return std::filesystem::path(variable("XDG_CACHE_HOME")) / "winnow" / "models";
  return std::filesystem::path(variable("HOME")) / ".cache" / "winnow" / "models";
}

Precision parse_precision(const std::string& text) {
  if (text == "f32") return Precision::kF32;
  if (text == "bf16") return Precision::kBF16;
  if (text == "int8") return Precision::kInt8;
  throw UsageError(fmt::format("--precision {}: must be f32, bf16 or int8", text));
}

KvType parse_kv(const std::string& text) {
  if (const auto kv = kv_type_of(text)) return *kv;
  throw UsageError(fmt::format("--kv {}: must be same or q8", text));
}

// CLI11 itself would take -1 and numbers that are too large.
std::uint64_t parse_seed(const std::string& text) {
  std::uint64_t seed = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, seed);
  if (error != std::errc() || stop != end) {
    throw CLI::ValidationError("--seed", fmt::format("\"{}\" must be an integer in 0..2^64-1", text));
  }
  return seed;
}

void check_device(const std::string& device) {
  if (device == "cpu" || device == "reference" || cuda_device(device)) return;
  throw UsageError(fmt::format("--device {}: must be cpu, cuda, cuda:N or reference", device));
}

void check_one_model(const ModelOptions& options) {
  if (options.model.empty() == options.random_weights.empty()) {
    throw UsageError("name a model (-m MODEL) or a shape (--random-weights SHAPE), one of the two");
  }
}

}  // namespace

void add_model_choice(CLI::App& app, ModelOptions& options, bool positional_model) {
  app.add_option(positional_model ? "MODEL,-m,--model" : "-m,--model", options.model,
                 "GGUF file, Hugging Face folder, or a fetched demo model (smollm2-135m)");
  app.add_option("--random-weights", options.random_weights,
                 "Instead of a model: random weights of a named shape, to measure speed (e.g. qwen2-0.5b)")
      ->type_name("SHAPE");
  app.add_option_function<std::string>(
         "--seed", [&options](const std::string& text) { options.seed = parse_seed(text); },
         "Seed of random weights and of sampling")
      ->type_name("UINT")
      ->default_str(fmt::format("{}", options.seed));
}

void add_model_options(CLI::App& app, ModelOptions& options, bool positional_model) {
  add_model_choice(app, options, positional_model);
  app.add_option("--device", options.device,
                 "cpu, cuda, cuda:N (GPU number N), or reference (the slow oracle)")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "CPU threads; 0: all")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--precision", options.precision,
                 "f32, bf16, or int8 (matrix products in 8 bits, the rest in bf16)")
      ->capture_default_str();
  app.add_flag("--progress", options.plain_progress, "Progress as plain lines on stderr, terminal or not");
}

void add_kv_option(CLI::App& app, ModelOptions& options) {
  app.add_option("--kv", options.kv,
                 "What caches keep: same (keys and values as --precision computes them), or q8 (8 bits)")
      ->capture_default_str();
}

void add_sampling_options(CLI::App& app, SamplerOptions& options) {
  app.add_option("--temperature", options.temperature, "Sampling temperature; 0: the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-k", options.top_k, "Sample among the k likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--top-p", options.top_p,
                 "Sample among the likeliest tokens that together reach this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
}

std::string resolve_model(const std::string& model) {
  std::error_code error;
  if (std::filesystem::exists(model, error)) return model;
  std::string names;
  for (const DemoModel& demo : kDemoModels) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", demo.name);
    if (model != demo.name) continue;
    const std::filesystem::path path = models_folder() / demo.file;
    if (std::filesystem::exists(path, error)) return path.string();
    fail(ErrorCode::kIo, "{}: the demo model is not at {}; fetch it with: scripts/get_model.sh {}", model,
         path.string(), model);
  }
  fail(ErrorCode::kIo, "{}: no such file or folder, nor a demo model (known: {})", model, names);
}

EngineOptions engine_options(const ModelOptions& options) {
  check_one_model(options);
  check_device(options.device);
  return {.model = options.model.empty() ? "" : resolve_model(options.model),
          .random_weights = options.random_weights,
          .seed = options.seed,
          .device = options.device,
          .precision = parse_precision(options.precision),
          .kv = parse_kv(options.kv),
          .threads = options.threads,
          .progress = {}};
}

std::unique_ptr<Engine> open_engine(const ModelOptions& options) {
  EngineOptions engine = engine_options(options);
  choose_ranks(options, engine);
  Progress progress(options.random_weights.empty() ? "loading" : "making random weights",
                    options.progress_style());
  engine.progress = [&](double share) { progress.update(share); };
  return Engine::open(engine);
}

std::unique_ptr<WeightSource> open_source(const ModelOptions& options) {
  check_one_model(options);
  if (!options.random_weights.empty()) return make_random_weights(options.random_weights, options.seed);
  return open_weights(resolve_model(options.model));
}

std::string read_text(const std::string& path) {
  const std::string name = path == "-" ? "stdin" : path;
  std::error_code ignored;
  if (path != "-" && std::filesystem::is_directory(path, ignored)) {
    fail(ErrorCode::kIo, "{}: is a folder, a text file is needed", path);
  }
  // Not mapped: a pipe (-f <(command)) is as good as a file.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      path == "-" ? stdin : std::fopen(path.c_str(), "rb"),
      path == "-" ? [](std::FILE*) { return 0; } : [](std::FILE* f) { return std::fclose(f); });
  if (file == nullptr) fail(ErrorCode::kIo, "{}: cannot open: {}", name, std::strerror(errno));
  std::string text;
  std::array<char, 1 << 16> block;
  while (const std::size_t count = std::fread(block.data(), 1, block.size(), file.get())) {
    text.append(block.data(), count);
  }
  if (std::ferror(file.get()) != 0) fail(ErrorCode::kIo, "{}: cannot read: {}", name, std::strerror(errno));
  return text;
}

bool same_file(const std::string& input, const std::string& output) {
  std::error_code error;  // what is not there is no file
  return std::filesystem::is_regular_file(output, error) &&
         std::filesystem::equivalent(input == "-" ? "/dev/stdin" : input, output, error);
}

std::string dump_json(const nlohmann::json& json, int indent) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
}

double megabytes(std::int64_t bytes) { return static_cast<double>(bytes) * 1e-6; }

}  // namespace winnow::cli
