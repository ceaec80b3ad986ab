// winnow inspect: what a model is and what it will need, without loading its weights.
#include <fmt/format.h>

#include <array>
#include <map>

#include "cli/command.h"
#include "cli/common.h"
#include "cli/expected_memory.h"
#include "cli/policy_text.h"
#include "cli/provenance.h"
#include "cli/table.h"
#include "core/error.h"
#include "model/weight_sizes.h"
#include "runtime/kv_choice.h"
#include "runtime/prefill_plan.h"
#include "tokenizer/tokenizer.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

struct InspectOptions {
  ModelOptions model;
  std::string policy = "dense";
  bool as_json = false, tensors = false;
};

constexpr const char* kPresets[] = {"keep09", "keep08", "keep07"};

json architecture_json(const Architecture& arch) {
  return {{"family", arch.family},
          {"layers", arch.layers},
          {"model_dim", arch.model_dim},
          {"heads", arch.heads},
          {"kv_heads", arch.kv_heads},
          {"head_dim", arch.head_dim},
          {"ffn_dim", arch.ffn_dim},
          {"vocab", arch.vocab},
          {"context", arch.context},
          {"rope_theta", arch.rope_theta},
          {"tied_embeddings", arch.tied_embeddings}};
}

// A tokenizer winnow cannot run is reported, not fatal: the rest of the model is still worth seeing.
json tokenizer_json(const ModelOptions& options) {
  if (options.model.empty()) return {{"error", "random weights have no tokenizer"}};
  try {
    const auto tokenizer = open_tokenizer(resolve_model(options.model));
    return {{"vocab", tokenizer->vocab_size()},
            {"stop_tokens", tokenizer->stop_tokens()},
            {"chat_template", tokenizer->has_chat_template()}};
  } catch (const Error& error) {
    return {{"error", error.what()}};
  }
}

std::int64_t elements(const TensorInfo& tensor) {
  std::int64_t count = 1;
  for (const std::int64_t extent : tensor.shape) count *= extent;
  return count;
}

// By type: how many tensors, elements and bytes.
json tensor_types_json(const std::vector<TensorInfo>& tensors) {
  std::map<std::string, std::array<std::int64_t, 3>> types;
  for (const TensorInfo& tensor : tensors) {
    auto& [count, total, bytes] = types[std::string(dtype_info(tensor.dtype).name)];
    count += 1;
    total += elements(tensor);
    bytes += dtype_bytes(tensor.dtype, elements(tensor));
  }
  json result = json::object();
  for (const auto& [name, sums] : types) {
    result[name] = {{"tensors", sums[0]}, {"elements", sums[1]}, {"bytes", sums[2]}};
  }
  return result;
}

json tensors_json(const std::vector<TensorInfo>& tensors) {
  json result = json::array();
  for (const TensorInfo& tensor : tensors) {
    result.push_back(
        {{"name", tensor.name}, {"dtype", dtype_info(tensor.dtype).name}, {"shape", tensor.shape}});
  }
  return result;
}

json memory_json(const WeightSource& source, const Architecture& arch, const InspectOptions& options) {
  const EngineOptions engine = engine_options(options.model);
  const Policy policy = parse_policy(options.policy, model_facts(arch), engine.kv);
  const auto backend = make_backend(engine);
  const std::int64_t loaded = loaded_bytes(source, arch, whole_model(arch), *backend).total();
  const std::int64_t program = program_bytes(arch, *backend);
  json result = json::array();
  for (const std::int64_t length : example_lengths(arch.context)) {
    const MemoryEstimate estimate =
        estimate_memory(loaded, arch, *backend, length, 0, policy, /*first_layer=*/0, engine.kv);
    result.push_back({{"prompt_tokens", length},
                      {"policy", policy.name},
                      {"weights_bytes", estimate.weights},
                      {"kv_bytes", estimate.kv},
                      {"activation_bytes", estimate.activations},
                      {"program_bytes", program},
                      {"total_bytes", estimate.total() + program}});
  }
  return result;
}

// A preset that does not fit (too few layers) says why instead.
json presets_json(const Architecture& arch) {
  json result = json::object();
  for (const char* preset : kPresets) {
    try {
      result[preset] = policy_to_json(parse_policy(preset, model_facts(arch)))["tokens"]["stages"];
    } catch (const Error& error) {
      result[preset] = {{"error", error.what()}};
    }
  }
  return result;
}

std::string stages_text(const json& stages) {
  if (stages.is_object()) return stages["error"].get<std::string>();
  std::string text;
  for (const json& stage : stages)
    text += fmt::format("{}{}", text.empty() ? "before layers " : ", ", stage["layer"].dump());
  return text;
}

void print_tensors(const json& report) {
  for (const auto& [type, sums] : report["tensor_types"].items()) {
    fmt::print("tensors        {} x {}, {:.1f} M elements, {:.1f} MB\n", sums["tensors"].dump(), type,
               sums["elements"].get<double>() * 1e-6, sums["bytes"].get<double>() * 1e-6);
  }
}

void print_memory(const json& memory) {
  Table table({"prompt tokens", "weights MB", "KV cache MB", "activations MB", "program MB", "total MB"});
  const auto mb = [](const json& bytes) {
    return fmt::format("{:.1f}", megabytes(bytes.get<std::int64_t>()));
  };
  for (const json& row : memory) {
    table.add_row({row["prompt_tokens"].dump(), mb(row["weights_bytes"]), mb(row["kv_bytes"]),
                   mb(row["activation_bytes"]), mb(row["program_bytes"]), mb(row["total_bytes"])});
  }
  fmt::print("\nMemory to read a prompt, policy {}:\n{}", memory[0]["policy"].get<std::string>(),
             table.to_string());
}

void print_report(const json& report) {
  const json &model = report["model"], &arch = report["architecture"], &tokenizer = report["tokenizer"];
  fmt::print("model          {}{}\n", model["name"].get<std::string>(),
             model["random"].get<bool>() ? " (random weights)" : "");
  fmt::print("architecture   {}, shape {}\n", arch["family"].get<std::string>(),
             model["shape_hash"].get<std::string>());
  fmt::print("layers         {}: model {}, ffn {}, {} heads and {} kv heads of {}\n", arch["layers"].dump(),
             arch["model_dim"].dump(), arch["ffn_dim"].dump(), arch["heads"].dump(), arch["kv_heads"].dump(),
             arch["head_dim"].dump());
  fmt::print("context        {} tokens\n", arch["context"].dump());
  fmt::print("weights        {:.1f} MB on disk, content {}\n", report["weight_bytes"].get<double>() * 1e-6,
             model["content_hash"].get<std::string>());
  print_tensors(report);
  if (tokenizer.contains("error")) {
    fmt::print("tokenizer      none: {}\n", tokenizer["error"].get<std::string>());
  } else {
    fmt::print("tokenizer      {} tokens, stops at {}, {}\n", tokenizer["vocab"].dump(),
               tokenizer["stop_tokens"].dump(),
               tokenizer["chat_template"].get<bool>() ? "has a chat template" : "no chat template");
  }
  for (const auto& [preset, stages] : report["presets"].items())
    fmt::print("{:<14} {}\n", preset, stages_text(stages));
  print_memory(report["memory"]);
}

void print_tensor_list(const json& tensors) {
  Table table({"tensor", "type", "shape"});
  for (const json& tensor : tensors) {
    table.add_row(
        {tensor["name"].get<std::string>(), tensor["dtype"].get<std::string>(), tensor["shape"].dump()});
  }
  fmt::print("\n{}", table.to_string());
}

int inspect(const InspectOptions& options) {
  const auto source = open_source(options.model);
  const Architecture arch = read_architecture(*source);
  const std::vector<TensorInfo> tensors = source->tensors();
  json report = {{"schema", kInspectSchema},
                 {"winnow", WINNOW_VERSION},
                 {"machine", machine_json()},
                 {"model", model_json(*source, arch, options.model.model.empty())},
                 {"seed", options.model.seed},
                 {"precision", options.model.precision},
                 {"kv", options.model.kv},
                 {"architecture", architecture_json(arch)},
                 {"weight_bytes", source->weight_bytes()},
                 {"tensor_types", tensor_types_json(tensors)},
                 {"tokenizer", tokenizer_json(options.model)},
                 {"presets", presets_json(arch)},
                 {"memory", memory_json(*source, arch, options)}};
  if (options.tensors) report["tensors"] = tensors_json(tensors);
  if (options.as_json) {
    fmt::print("{}\n", dump_json(report, 2));
    return 0;
  }
  print_report(report);
  if (options.tensors) print_tensor_list(report["tensors"]);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Command& command) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* sub = app.add_subcommand("inspect", "What a model is, and the memory it needs");
  add_model_options(*sub, options->model, /*positional_model=*/true);
  add_kv_option(*sub, options->model);
  sub->add_option("--policy", options->policy, "Whose memory is told; as in winnow run --help")
      ->capture_default_str();
  sub->add_flag("--json", options->as_json, "As JSON");
  sub->add_flag("--tensors", options->tensors, "List every tensor");
  sub->footer("Examples:\n  winnow inspect model.gguf\n  winnow inspect smollm2-135m --policy keep08 --json");
  sub->callback([options, &command] { command = [options] { return inspect(*options); }; });
}

}  // namespace winnow::cli
