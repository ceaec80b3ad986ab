#include "runtime/engine.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "model/decoder_layer.h"
#include "model/random_weights.h"
#include "runtime/prefill_plan.h"

namespace winnow {
namespace {

std::unique_ptr<Backend> make_backend(const EngineOptions& options) {
  if (options.device == "cpu") return make_cpu_backend(options.precision, options.threads);
  if (options.device == "reference") return make_reference_backend(options.precision);
  fail(ErrorCode::kBadArgument, "--device {}: this build has cpu and reference", options.device);
}

// Packed matrices, from the shapes alone.
std::int64_t packed_weight_bytes(const Architecture& arch, DType dtype) {
  const std::int64_t layer = arch.model_dim * (arch.qkv_dim() + arch.q_dim() + arch.up_dim() + arch.ffn_dim);
  return dtype_bytes(dtype, arch.layers * layer + arch.vocab * arch.model_dim);
}

// "/proc" and cgroup files hold one number or a word such as "max".
std::int64_t number_in(const std::string& path) {
  std::int64_t value = -1;
  std::ifstream(path) >> value;
  return value;
}

}  // namespace

std::int64_t available_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::int64_t available = -1;
  for (std::string key; meminfo >> key;) {
    if (key == "MemAvailable:" && meminfo >> available) {
      available *= 1024;
      break;
    }
  }
  const std::int64_t limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit > 0 && used >= 0) available = available < 0 ? limit - used : std::min(available, limit - used);
  return available;
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::unique_ptr<Engine> Engine::open(const EngineOptions& options) {
  if (options.model.empty() == options.random_weights.empty()) {
    fail(ErrorCode::kBadArgument, "name a model (-m) or a shape (--random-weights), one of the two");
  }
  std::unique_ptr<Engine> engine(new Engine());
  engine->random_ = !options.random_weights.empty();
  engine->source_ = engine->random_ ? make_random_weights(options.random_weights, options.seed) : open_weights(options.model);
  engine->arch_ = read_architecture(*engine->source_);
  engine->backend_ = make_backend(options);
  const std::int64_t needed = packed_weight_bytes(engine->arch_, engine->backend_->compute_dtype());
  const std::int64_t available = available_memory_bytes();
  if (available >= 0 && needed > available) {
    fail(ErrorCode::kOutOfMemory, "{}: the weights need {} MiB, the system has {} MiB free", engine->source_->path(), needed >> 20, available >> 20);
  }
  if (!engine->random_) engine->tokenizer_ = open_tokenizer(options.model);
  engine->weights_ = load_weights(*engine->source_, engine->arch_, *engine->backend_, options.progress);
  return engine;
}

const Tokenizer& Engine::tokenizer() const {
  if (tokenizer_ == nullptr) fail(ErrorCode::kBadArgument, "random weights have no tokenizer: they read token ids only");
  return *tokenizer_;
}

MemoryEstimate Engine::estimate(std::int64_t prompt_tokens, std::int64_t new_tokens, const Policy& policy) const {
  MemoryEstimate estimate;
  estimate.weights = weights_.bytes;
  for (const std::int64_t rows : rows_by_layer(policy, arch_.layers, prompt_tokens)) {
    estimate.kv += backend_->kv_bytes(arch_.kv_heads, arch_.head_dim, rows + new_tokens);
  }
  estimate.activations = prompt_tokens * (4 * arch_.model_dim + dtype_bytes(backend_->compute_dtype(), arch_.q_dim())) +
                         Workspace::bytes(arch_, backend_->compute_dtype(), kChunkRows);
  return estimate;
}

}  // namespace winnow
