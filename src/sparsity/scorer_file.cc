#include "sparsity/scorer_file.h"

#include <charconv>
#include <cstring>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

constexpr const char* kEntry = "winnow_scorers";
constexpr std::int64_t kMostPools = 16, kMostWindow = 4096, kMostLayers = 4096;

// Reads the description; every fault names file and key.
class DescriptionReader {
 public:
  DescriptionReader(const nlohmann::json& json, const std::string& path) : json_(json), path_(path) {}

  ScorerDescription read() const {
    ScorerDescription result;
    const nlohmann::json& model = member(json_, "model");
    result.model_name = printable(text(model, "name"));
    result.shape_hash = text(model, "shape_hash");
    result.model_dim = number(model, "model_dim", 1, std::int64_t{1} << 24);
    result.heads = number(model, "heads", 1, 1 << 16);
    ScorerInputs shared;
    shared.window = number(json_, "window", 1, kMostWindow);
    shared.hidden = member(json_, "hidden") == true;
    if (!member(json_, "hidden").is_boolean()) bad("hidden", "is no boolean");
    shared.pools = numbers(member(json_, "pools"), "pools", 1, 1 << 16);
    if (std::ssize(shared.pools) > kMostPools) bad("pools", "has too many widths");
    for (const std::int64_t width : shared.pools) {
      if (width % 2 == 0) bad("pools", "has an even width");
    }
    if (!member(json_, "stages").is_object()) bad("stages", "is no object");
    for (const auto& [key, layers] : json_["stages"].items()) {
      const std::int64_t stage = layer_of(key);
      ScorerInputs inputs = shared;
      inputs.attention_layers = numbers(layers, "stages", 0, stage - 1);
      result.stages.emplace(stage, std::move(inputs));
    }
    if (json_.contains("training")) result.training = json_["training"];
    return result;
  }

 private:
  [[noreturn]] void bad(const char* key, const char* what) const {
    fail(ErrorCode::kBadFormat, "{}: metadata {}: {} {}", path_, kEntry, key, what);
  }
  const nlohmann::json& member(const nlohmann::json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key)) bad(key, "is missing");
    return object[key];
  }
  std::string text(const nlohmann::json& object, const char* key) const {
    const nlohmann::json& value = member(object, key);
    if (!value.is_string()) bad(key, "is no text");
    return value.get<std::string>();
  }
  std::int64_t number(const nlohmann::json& object, const char* key, std::int64_t low,
                      std::int64_t high) const {
    return numbers(nlohmann::json::array({member(object, key)}), key, low, high)[0];
  }
  std::vector<std::int64_t> numbers(const nlohmann::json& array, const char* key, std::int64_t low,
                                    std::int64_t high) const {
    if (!array.is_array()) bad(key, "is no list");
    std::vector<std::int64_t> values;
    for (const nlohmann::json& value : array) {
      if (!value.is_number_integer() || value < low || value > high) bad(key, "is out of range");
      values.push_back(value.get<std::int64_t>());
    }
    return values;
  }
  std::int64_t layer_of(const std::string& key) const {
    std::int64_t layer = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), layer);
    if (error != std::errc() || end != key.data() + key.size() || layer < 1 || layer > kMostLayers)
      bad("stages", "has a key that is no layer");
    return layer;
  }

  const nlohmann::json& json_;
  const std::string& path_;
};

}  // namespace

nlohmann::json to_json(const ScorerDescription& description) {
  nlohmann::json stages = nlohmann::json::object();
  ScorerInputs shared;
  for (const auto& [layer, inputs] : description.stages) {
    stages[std::to_string(layer)] = inputs.attention_layers;
    shared = inputs;
  }
  return {{"version", 2},
          {"model",
           {{"name", description.model_name},
            {"shape_hash", description.shape_hash},
            {"model_dim", description.model_dim},
            {"heads", description.heads}}},
          {"window", shared.window},
          {"pools", shared.pools},
          {"hidden", shared.hidden},
          {"stages", stages},
          {"training", description.training}};
}

ScorerFile::ScorerFile(const std::string& path) : file_(path) {
  const auto found = file_.metadata().find(kEntry);
  if (found == file_.metadata().end()) return;
  const nlohmann::json json = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("version") || !json["version"].is_number_integer()) {
    fail(ErrorCode::kBadFormat, "{}: metadata {} is no description of scorers", path, kEntry);
  }
  if (json["version"] != 2)
    fail(ErrorCode::kUnsupported, "{}: scorers of version {}; this winnow knows 1 and 2", path,
         json["version"].dump());
  version_ = 2;
  description_ = DescriptionReader(json, path).read();
}

ScorerMlp ScorerFile::read_mlp(std::int64_t layer, std::int64_t inputs, std::int64_t inner,
                               std::int64_t model_dim, Backend& backend) const {
  const std::string prefix = fmt::format("stage.{}.", layer);
  return {read_linear(prefix + "fc1", inner, inputs, model_dim, backend),
          read_linear(prefix + "fc2", 1, inner, model_dim, backend)};
}

std::vector<float> ScorerFile::read_values(const std::string& name, const std::vector<std::int64_t>& shape,
                                           std::int64_t model_dim) const {
  const SafetensorsTensor& found = tensor(name, shape, model_dim);
  std::vector<float> values(found.data.size() / sizeof(float));
  std::memcpy(values.data(), found.data.data(), found.data.size());
  return values;
}

ScorerLinear ScorerFile::read_linear(const std::string& name, std::int64_t out_features,
                                     std::int64_t in_features, std::int64_t model_dim,
                                     Backend& backend) const {
  const auto& weight = tensor(name + ".weight", {out_features, in_features}, model_dim);
  const auto& bias = tensor(name + ".bias", {out_features}, model_dim);
  ScorerLinear linear;
  linear.weight = backend.pack(out_features, in_features,
                               [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
                                 const std::int64_t row_bytes = dtype_bytes(DType::kF32, in_features);
                                 std::memcpy(out.data(), weight.data.data() + begin * row_bytes,
                                             static_cast<std::size_t>((end - begin) * row_bytes));
                               });
  linear.bias = backend.allocate(dtype_bytes(DType::kF32, out_features));
  backend.upload(bias.data.data(), linear.bias.as<>(), static_cast<std::int64_t>(bias.data.size()));
  return linear;
}

const SafetensorsTensor& ScorerFile::tensor(const std::string& name, const std::vector<std::int64_t>& shape,
                                            std::int64_t model_dim) const {
  const SafetensorsTensor* found = file_.find(name);
  if (found == nullptr) {
    fail(ErrorCode::kBadArgument,
         "{}: tensor {} is missing; the file has scorers for the stages at layers {}", file_.path(), name,
         stages_in_file());
  }
  if (found->dtype != DType::kF32 || found->shape != shape) {
    fail(ErrorCode::kBadArgument,
         "{}: tensor {} is {} [{}], expected F32 [{}] for a model whose hidden size is {}", file_.path(),
         name, printable(found->dtype_name), fmt::join(found->shape, ", "), fmt::join(shape, ", "),
         model_dim);
  }
  return *found;
}

// "4, 10", for messages.
std::string ScorerFile::stages_in_file() const {
  constexpr std::string_view kPrefix = "stage.", kSuffix = ".fc1.weight";
  std::string stages;
  for (const auto& [name, entry] : file_.tensors()) {
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix) ||
        name.size() <= kPrefix.size() + kSuffix.size())
      continue;
    stages += stages.empty() ? "" : ", ";
    stages += name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  }
  return stages.empty() ? "(none)" : printable(stages);
}

}  // namespace winnow
