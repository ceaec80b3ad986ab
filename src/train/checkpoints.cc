#include "train/checkpoints.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/error.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"

namespace winnow {
namespace {

using nlohmann::json;

TensorToWrite vector_tensor(std::string name, const std::vector<float>& values) {
  return {std::move(name), {std::ssize(values)}, values};
}

class CheckpointReader {
 public:
  explicit CheckpointReader(const std::string& path) : file_(path) {
    const auto found = file_.metadata().find("state");
    state_ = found == file_.metadata().end()
                 ? json()
                 : json::parse(found->second, nullptr, /*allow_exceptions=*/false);
    if (!state_.is_object()) damaged("its state is missing");
  }

  std::vector<float> values(const std::string& name, std::int64_t count) const {
    const SafetensorsTensor* tensor = file_.find(name);
    if (tensor == nullptr || tensor->dtype != DType::kF32 || std::ssize(tensor->data) != count * 4)
      damaged(name);
    std::vector<float> result(static_cast<std::size_t>(count));
    std::memcpy(result.data(), tensor->data.data(), tensor->data.size());
    return result;
  }
  std::int64_t elements(const std::string& name) const {
    const SafetensorsTensor* tensor = file_.find(name);
    return tensor == nullptr ? 0 : std::ssize(tensor->data) / 4;
  }
  template <class T>
  T get(const char* key) const {
    try {
      return state_.at(key).get<T>();
    } catch (const json::exception&) {
      damaged(key);
    }
  }
  [[noreturn]] void damaged(const std::string& what) const {
    fail(ErrorCode::kBadFormat, "{}: no checkpoint of this training ({}); --no-resume starts over",
         file_.path(), what);
  }

 private:
  SafetensorsFile file_;
  json state_;
};

}  // namespace

void save_scorer_state(const std::string& path, const ScorerState& state) {
  const json values{{"epoch", state.epoch},
                    {"best_epoch", state.best_epoch},
                    {"best_lost", state.best_lost},
                    {"finished", state.finished},
                    {"adam_steps", state.adam.steps},
                    {"target_mean", state.target_mean},
                    {"target_scale", state.target_scale},
                    {"curve", state.curve}};
  const std::vector<TensorToWrite> tensors{
      vector_tensor("parameters", state.mlp.parameters), vector_tensor("best", state.best.parameters),
      vector_tensor("adam.mean", state.adam.mean),       vector_tensor("adam.square", state.adam.square),
      vector_tensor("input_mean", state.input_mean),     vector_tensor("input_scale", state.input_scale)};
  write_file_atomically(path, safetensors_bytes(tensors, {{"state", values.dump()}}));
}

ScorerState load_scorer_state(const std::string& path, std::int64_t inputs, std::int64_t inner) {
  const CheckpointReader reader(path);
  const std::int64_t count = Mlp::parameter_count(inputs, inner);
  ScorerState state;
  state.mlp = {inputs, inner, reader.values("parameters", count)};
  state.best = {inputs, inner, reader.values("best", count)};
  state.adam.steps = reader.get<std::int64_t>("adam_steps");
  if (state.adam.steps > 0) {
    state.adam.mean = reader.values("adam.mean", count);
    state.adam.square = reader.values("adam.square", count);
  }
  state.input_mean = reader.values("input_mean", inputs);
  state.input_scale = reader.values("input_scale", inputs);
  state.target_mean = reader.get<float>("target_mean");
  state.target_scale = reader.get<float>("target_scale");
  state.epoch = reader.get<std::int64_t>("epoch");
  state.best_epoch = reader.get<std::int64_t>("best_epoch");
  state.best_lost = reader.get<double>("best_lost");
  state.finished = reader.get<bool>("finished");
  state.curve = reader.get<std::vector<std::string>>("curve");
  return state;
}

void save_end_to_end(const std::string& path, const EndToEndState& state) {
  std::vector<TensorToWrite> tensors;
  for (const auto& [stage, mlp] : state.scorers) {
    tensors.push_back(vector_tensor(fmt::format("{}.parameters", stage), mlp.parameters));
    tensors.push_back(vector_tensor(fmt::format("{}.best", stage), state.best.at(stage).parameters));
    const auto adam = state.adam.find(stage);
    if (adam == state.adam.end()) continue;
    tensors.push_back(vector_tensor(fmt::format("{}.adam.mean", stage), adam->second.mean));
    tensors.push_back(vector_tensor(fmt::format("{}.adam.square", stage), adam->second.square));
  }
  const json values{{"step", state.step},
                    {"start_loss", state.start_loss},
                    {"best_loss", state.best_loss},
                    {"curve", state.curve}};
  write_file_atomically(path, safetensors_bytes(tensors, {{"state", values.dump()}}));
}

EndToEndState load_end_to_end(const std::string& path, const std::map<std::int64_t, Mlp>& start) {
  const CheckpointReader reader(path);
  EndToEndState state;
  state.step = reader.get<std::int64_t>("step");
  state.start_loss = reader.get<double>("start_loss");
  state.best_loss = reader.get<double>("best_loss");
  state.curve = reader.get<std::vector<std::string>>("curve");
  for (const auto& [stage, mlp] : start) {
    const auto count = std::ssize(mlp.parameters);
    state.scorers[stage] = {mlp.inputs, mlp.inner, reader.values(fmt::format("{}.parameters", stage), count)};
    state.best[stage] = {mlp.inputs, mlp.inner, reader.values(fmt::format("{}.best", stage), count)};
    if (state.step == 0) continue;
    state.adam[stage] = {reader.values(fmt::format("{}.adam.mean", stage), count),
                         reader.values(fmt::format("{}.adam.square", stage), count), state.step};
  }
  return state;
}

void save_scorers(const std::string& path, const std::map<std::int64_t, Mlp>& scorers,
                  const ScorerDescription& description) {
  std::vector<TensorToWrite> tensors;
  for (const auto& [stage, mlp] : scorers) {
    const std::string prefix = fmt::format("stage.{}.", stage);
    const std::span<const float> parameters(mlp.parameters);
    tensors.push_back({prefix + "fc1.weight", {mlp.inner, mlp.inputs}, mlp.w1()});
    tensors.push_back({prefix + "fc1.bias", {mlp.inner}, mlp.b1()});
    tensors.push_back({prefix + "fc2.weight", {1, mlp.inner}, mlp.w2()});
    tensors.push_back({prefix + "fc2.bias", {1}, parameters.last(1)});
  }
  write_file_atomically(path, safetensors_bytes(tensors, {{"winnow_scorers", to_json(description).dump()}}));
}

std::map<std::int64_t, Mlp> load_scorers(const std::string& path, const ScorerDescription& expected) {
  const ScorerFile file(path);
  const ScorerDescription& found = file.description();
  if (file.version() != 2)
    fail(ErrorCode::kBadArgument, "{}: scorers of version 1 have no description to train on from", path);
  if (found.shape_hash != expected.shape_hash) {
    fail(ErrorCode::kBadArgument,
         "{}: these scorers were trained for the model {} (shape {}), not for {} (shape {})", path,
         found.model_name, found.shape_hash, expected.model_name, expected.shape_hash);
  }
  std::map<std::int64_t, Mlp> scorers;
  const std::int64_t dim = expected.model_dim, inner = std::max<std::int64_t>(1, dim / 4);
  for (const auto& [stage, inputs] : expected.stages) {
    const auto of_file = found.stages.find(stage);
    const std::int64_t columns = inputs.columns(expected.heads, dim);
    const bool same = of_file != found.stages.end() &&
                      of_file->second.attention_layers == inputs.attention_layers &&
                      of_file->second.pools == inputs.pools && of_file->second.window == inputs.window &&
                      of_file->second.hidden == inputs.hidden;
    if (!same)
      fail(ErrorCode::kBadArgument, "{}: no scorer for the stage at layer {} with these inputs", path, stage);
    Mlp mlp{columns, inner, {}};
    const std::string prefix = fmt::format("stage.{}.", stage);
    const auto add = [&](const char* name, const std::vector<std::int64_t>& shape) {
      const std::vector<float> values = file.read_values(prefix + name, shape, dim);
      mlp.parameters.insert(mlp.parameters.end(), values.begin(), values.end());
    };
    add("fc1.weight", {inner, columns});
    add("fc1.bias", {inner});
    add("fc2.weight", {1, inner});
    add("fc2.bias", {1});
    scorers.emplace(stage, std::move(mlp));
  }
  return scorers;
}

}  // namespace winnow
