#include "backends/cuda/step_graph.h"

#include <algorithm>
#include <utility>

namespace winnow::cuda {
namespace {

constexpr std::size_t kMaxNumbers = 16384;
constexpr std::size_t kMaxGraphs = 16;

}  // namespace

StepGraphs::StepGraphs(Device& device)
    : device_(device),
      device_values_(static_cast<std::int32_t*>(allocate_bytes(kMaxNumbers * 4, device.index()))) {}

StepGraphs::~StepGraphs() {
  forget();
  release_bytes(device_values_);
}

void StepGraphs::forget() {
  for (const Graph& graph : graphs_) {
    if (graph.exec != nullptr) cudaGraphExecDestroy(graph.exec);
  }
  graphs_.clear();
}

void StepGraphs::begin() {
  in_step_ = true;
  broken_ = false;
  values_.clear();
  uploaded_ = 0;
}

void StepGraphs::submit(std::uint64_t key, std::function<void()> launch) {
  if (in_step_) {
    pending_.push_back({key, std::move(launch)});
  } else {
    launch();
  }
}

const std::int32_t* StepGraphs::numbers(std::span<const std::int32_t> values) {
  if (!in_step_) return device_.stage_as(values.data(), static_cast<std::int64_t>(values.size()));
  if (values_.size() + values.size() > kMaxNumbers) {
    flush();
    return device_.stage_as(values.data(), static_cast<std::int64_t>(values.size()));
  }
  const std::size_t at = values_.size();
  values_.insert(values_.end(), values.begin(), values.end());
  return device_values_ + at;
}

void StepGraphs::upload_numbers() {
  const std::size_t count = values_.size() - uploaded_;
  if (count == 0) return;
  const auto bytes = static_cast<std::int64_t>(count * 4);
  const void* staged = device_.stage(values_.data() + uploaded_, bytes);
  check_cuda(cudaMemcpyAsync(device_values_ + uploaded_, staged, static_cast<std::size_t>(bytes),
                             cudaMemcpyDeviceToDevice, device_.stream()),
             "a step's numbers");
  uploaded_ = values_.size();
}

void StepGraphs::run_pending() {
  for (const Launch& launch : pending_) launch.run();
  pending_.clear();
}

void StepGraphs::flush() {
  if (!in_step_) return;
  broken_ = true;
  upload_numbers();
  run_pending();
}

void StepGraphs::end() {
  in_step_ = false;
  upload_numbers();
  if (broken_ || pending_.empty()) return run_pending();
  std::uint64_t key = pending_.size();
  for (const Launch& launch : pending_) key = key_of(key, launch.key);
  const auto known =
      std::find_if(graphs_.begin(), graphs_.end(), [&](const Graph& g) { return g.key == key; });
  if (known ==
      graphs_.end()) {  // the first time: kernels are loaded and products measured outside of a capture
    graphs_.push_front({key, nullptr});
    if (graphs_.size() > kMaxGraphs) {
      if (graphs_.back().exec != nullptr) cudaGraphExecDestroy(graphs_.back().exec);
      graphs_.pop_back();
    }
    return run_pending();
  }
  graphs_.splice(graphs_.begin(), graphs_, known);
  Graph& graph = graphs_.front();
  if (graph.exec == nullptr) graph.exec = capture();
  pending_.clear();
  check_cuda(cudaGraphLaunch(graph.exec, device_.stream()), "a step");
}

cudaGraphExec_t StepGraphs::capture() {
  check_cuda(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal), "capturing a step");
  cudaGraph_t graph = nullptr;
  try {
    for (const Launch& launch : pending_) launch.run();
  } catch (...) {
    cudaStreamEndCapture(device_.stream(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    pending_.clear();
    throw;
  }
  check_cuda(cudaStreamEndCapture(device_.stream(), &graph), "capturing a step");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "a step's graph");
  return exec;
}

}  // namespace winnow::cuda
