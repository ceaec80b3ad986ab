#include "runtime/engine.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <numeric>
#include <string>

#include "model/random_weights.h"
#include "model/weight_sizes.h"
#include "ranks/rank_threads.h"
#include "runtime/prefill_plan.h"
#include "runtime/ranks.h"

namespace winnow {
namespace {

// "/proc" and cgroup files hold one number or a word such as "max".
std::int64_t number_in(const std::string& path) {
  std::int64_t value = -1;
  std::ifstream(path) >> value;
  return value;
}

// File pages a cgroup counts as used but gives back when memory is wanted: what a build or a download leaves
// behind.
std::int64_t reclaimable_bytes() {
  std::ifstream stat("/sys/fs/cgroup/memory.stat");
  std::int64_t total = 0, value = 0;
  for (std::string key; stat >> key >> value;) {
    if (key == "inactive_file" || key == "active_file") total += value;
  }
  return total;
}

// `decode_forms`: decode_form_bytes() of the model.
MemoryEstimate sum_of(std::span<const ModelPart> parts, std::int64_t decode_forms, const Architecture& arch,
                      const Backend& backend, std::int64_t prompt_tokens, std::int64_t new_tokens,
                      const Policy& policy, KvType kv, std::int64_t earlier_rows = 0) {
  MemoryEstimate sum;
  for (const ModelPart& part : parts) {
    const Architecture own = part_of(arch, part);
    const MemoryEstimate one =
        estimate_memory(loaded_bytes(decode_forms, arch, own, backend), own, backend, prompt_tokens,
                        new_tokens, policy, part.layers.begin, kv, earlier_rows);
    sum.weights += one.weights;
    sum.kv += one.kv;
    sum.activations += one.activations;
  }
  return sum;
}

// What ranks give each other goes through the hosts' memory or from GPU to GPU, the same way for all.
void check_one_kind(const std::vector<std::string>& devices) {
  const auto is_gpu = [](const std::string& device) { return cuda_device(device).has_value(); };
  const auto gpus = std::count_if(devices.begin(), devices.end(), is_gpu);
  if (gpus == 0 || gpus == std::ssize(devices)) return;
  fail(ErrorCode::kUnsupported, "--devices {}: a model runs on GPUs or on CPUs, not on both",
       fmt::join(devices, ","));
}

// What `options` come to on this rank.
EngineOptions own_options(EngineOptions options) {
  const Communicator& ranks = *options.ranks;
  const auto local = static_cast<std::size_t>(ranks.local_rank());
  if (!options.devices.empty()) {
    options.device = options.devices[local % options.devices.size()];
  } else if (options.device == "cuda") {
    options.device = fmt::format("cuda:{}", local);
  }
  options.threads = threads_of_rank(options.threads, ranks.local_size());
  return options;
}

}  // namespace

std::int64_t system_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::int64_t available = -1;
  for (std::string key; meminfo >> key;) {
    if (key == "MemAvailable:" && meminfo >> available) {
      available *= 1024;
      break;
    }
  }
  const std::int64_t limit = number_in("/sys/fs/cgroup/memory.max"),
                     used = number_in("/sys/fs/cgroup/memory.current") - reclaimable_bytes();
  if (limit <= 0 || used < 0) return available;
  return available < 0 ? limit - used : std::min(available, limit - used);
}

std::int64_t address_space_bytes() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return -1;
  const std::int64_t used = number_in("/proc/self/statm") * sysconf(_SC_PAGESIZE);
  return std::max<std::int64_t>(0, static_cast<std::int64_t>(limit.rlim_cur) - used);
}

std::int64_t available_memory_bytes() {
  const std::int64_t system = system_memory_bytes(), addresses = address_space_bytes();
  return system < 0 || addresses < 0 ? std::max(system, addresses) : std::min(system, addresses);
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::unique_ptr<Backend> make_backend(const EngineOptions& options) {
  if (options.device == "cpu") return make_cpu_backend(options.precision, options.threads);
  if (options.device == "reference") return make_reference_backend(options.precision);
  if (const auto index = cuda_device(options.device)) {
    if (options.precision == Precision::kInt8) {
      fail(ErrorCode::kUnsupported,
           "--precision int8: --device {} computes in bf16 or f32; int8 is the CPU's", options.device);
    }
    if (options.kv != KvType::kSame) {
      fail(ErrorCode::kUnsupported, "--kv {}: caches on --device {} are kept as computed (--kv same)",
           kv_type_name(options.kv), options.device);
    }
    return make_cuda_backend(options.precision, *index);
  }
  fail(ErrorCode::kBadArgument, "--device {}: must be cpu, cuda, cuda:N or reference", options.device);
}

std::optional<int> cuda_device(std::string_view device) {
  if (device == "cuda") return 0;
  constexpr std::string_view kPrefix = "cuda:";
  if (!device.starts_with(kPrefix)) return std::nullopt;
  int index = 0;
  const char* end = device.data() + device.size();
  const auto [stop, error] = std::from_chars(device.data() + kPrefix.size(), end, index);
  if (error != std::errc() || stop != end || index < 0) return std::nullopt;
  return index;
}

ModelFacts model_facts(const Architecture& arch) {
  return {arch.name, arch.shape_hash(), arch.layers, arch.heads};
}

std::unique_ptr<Engine> Engine::open(const EngineOptions& options) {
  if (options.model.empty() == options.random_weights.empty()) {
    fail(ErrorCode::kBadArgument, "name a model (-m) or a shape (--random-weights), one of the two");
  }
  std::unique_ptr<Engine> engine(new Engine());
  engine->random_ = !options.random_weights.empty();
  engine->source_ = engine->random_ ? make_random_weights(options.random_weights, options.seed)
                                    : open_weights(options.model);
  engine->arch_ = read_architecture(*engine->source_);
  if (options.ranks && options.ranks->size() > 1) engine->ranks_ = options.ranks;
  if (engine->ranks_) check_one_kind(options.devices);
  engine->kv_type_ = options.kv;
  if (engine->ranks_ && options.kv != KvType::kSame) {
    fail(ErrorCode::kUnsupported, "--kv {}: caches over several devices are kept as computed (--kv same)",
         kv_type_name(options.kv));
  }
  engine->parts_ = split_model(engine->arch_, options.split, engine->ranks_ ? engine->ranks_->size() : 1);
  engine->part_arch_ = part_of(engine->arch_, engine->part());
  if (!engine->ranks_) {
    engine->load(options);
    return engine;
  }
  if (engine->rank() == 0) engine->leader_ = std::make_unique<Leader>(*engine->ranks_, options);
  try {
    engine->load(own_options(options));
    engine->ranks_->barrier();  // what failed elsewhere shows here
  } catch (const std::exception& error) {
    engine->stop_ranks(error);
    throw;
  }
  return engine;
}

Engine::~Engine() = default;

void Engine::stop_ranks(const std::exception& error) const {
  if (ranks_) ranks_->stop(fmt::format("rank {}: {}", rank(), error.what()));
}

void Engine::load(const EngineOptions& options) {
  backend_ = make_backend(options);
  if (ranks_) {
    backend_->join({.ranks = ranks_,
                    .heads = part().heads,
                    .model_heads = arch_.heads,
                    .sums = !part().sums_whole,
                    .most_columns = arch_.model_dim});
  }
  decode_form_bytes_ = decode_form_bytes(*source_, arch_, *backend_);
  find_memory_sharers();
  check_weights_fit();
  if (ranks_) ranks_->barrier();  // before any of them takes memory that another one looks at
  if (!random_) tokenizer_ = open_tokenizer(options.model);
  weights_ = load_weights(*source_, arch_, part(), *backend_, options.progress);
  if (ranks_) {  // what a decoded token reads, it reads on all of them
    const auto each = ranks_->gather(weights_.decode_bytes);
    weights_.decode_bytes = std::accumulate(each.begin(), each.end(), std::int64_t{0});
  }
  workspace_ = std::make_unique<Workspace>(part_arch_, *backend_, backend_->chunk_rows());
  measure_costs_ = options.attention_costs;
  costs_ = std::make_unique<AttentionCostsCache>(options.attention_costs ? "" : attention_costs_file());
}

void Engine::find_memory_sharers() {
  parts_in_memory_ = {part()};
  if (!ranks_) return;
  const int none = -1 - ranks_->rank();  // a GPU's memory is its rank's
  const auto memories = ranks_->gather(backend_->shares_host_memory() ? ranks_->host() : none);
  parts_in_memory_.clear();
  for (std::size_t rank = 0; rank < memories.size(); ++rank) {
    if (memories[rank] == memories[static_cast<std::size_t>(this->rank())]) {
      parts_in_memory_.push_back(parts_[rank]);
    }
  }
}

void Engine::check_weights_fit() const {
  check_fits([&](std::span<const ModelPart> parts, std::int64_t available, const char* whose) {
    std::int64_t needed = 0;
    for (const ModelPart& part : parts) {
      needed += loaded_bytes(decode_form_bytes_, arch_, part_of(arch_, part), *backend_);
    }
    if (ranks_ && backend_->keeps_embeddings()) {  // the table is whole on every rank that reads tokens
      needed += dtype_bytes(backend_->compute_dtype(), arch_.vocab * arch_.model_dim);
    }
    if (needed <= available) return;
    fail(ErrorCode::kOutOfMemory, "{}: the weights need {} MiB, {} has {} MiB free", source_->path(),
         needed >> 20, whose, available >> 20);
  });
}

void Engine::check_prompt_fits(std::int64_t tokens, std::int64_t new_tokens, const Policy& policy,
                               std::int64_t earlier_rows) const {
  check_fits([&](std::span<const ModelPart> parts, std::int64_t available, const char* whose) {
    const MemoryEstimate estimate = sum_of(parts, decode_form_bytes_, arch_, *backend_, tokens, new_tokens,
                                           policy, kv_type_, earlier_rows);
    const std::int64_t needed = estimate.kv + estimate.activations;
    if (needed <= available) return;
    fail(ErrorCode::kOutOfMemory,
         "a prompt of {} tokens needs {} MiB (caches {}, activations {}), {} has {} MiB free", tokens,
         needed >> 20, estimate.kv >> 20, estimate.activations >> 20, whose, available >> 20);
  });
}

// The host's memory is there once for all ranks on it; a process's address space is its own.
void Engine::check_fits(const MemoryCheck& check) const {
  const std::int64_t free = backend_->free_bytes();
  if (free >= 0) return check(parts_in_memory_, free, "the GPU");
  const std::int64_t system = system_memory_bytes(), addresses = address_space_bytes();
  if (system >= 0) check(parts_in_memory_, system, "the system");
  if (addresses >= 0) check({&part(), 1}, addresses, "the process's address space");
}

const Tokenizer& Engine::tokenizer() const {
  if (tokenizer_ == nullptr)
    fail(ErrorCode::kBadArgument, "random weights have no tokenizer: they read token ids only");
  return *tokenizer_;
}

const AttentionCosts& Engine::attention_costs(const BlockRule& rule) const {
  const AttentionShape shape{part_arch_.heads, part_arch_.kv_heads, arch_.head_dim};
  return costs_->get(attention_costs_key(*backend_, shape, rule), [&] {
    return measure_costs_ ? measure_costs_(rule) : measure_attention_costs(*backend_, shape, rule);
  });
}

MemoryEstimate Engine::estimate(std::int64_t prompt_tokens, std::int64_t new_tokens,
                                const Policy& policy) const {
  return sum_of(parts_, decode_form_bytes_, arch_, *backend_, prompt_tokens, new_tokens, policy, kv_type_);
}

MemoryEstimate Engine::estimate_here(std::int64_t prompt_tokens, std::int64_t new_tokens,
                                     const Policy& policy, std::int64_t earlier_rows) const {
  return sum_of({&part(), 1}, decode_form_bytes_, arch_, *backend_, prompt_tokens, new_tokens, policy,
                kv_type_, earlier_rows);
}

}  // namespace winnow
